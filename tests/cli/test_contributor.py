"""A contributor's day with real processes: settings, two coordinators at once, pause and resume, hours, and a drain at the end."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from folkmoot.cli.child import Child, ChildEndedError
from folkmoot.client import FolkmootClient
from folkmoot.models.prepare import prepare
from folkmoot.node.control import ask, runs
from folkmoot.tests.support.process_network import QUICK
from folkmoot.tests.support.tiny_models import tiny_checkpoint

COMMAND = [sys.executable, "-P", "-m", "folkmoot.cli.main"]
PATIENCE_S = 90.0
NAMES = ("london", "paris")


class Village:
    """Two coordinators of one tiny model, with a node of somebody else's each, and a contributor's machine.

    Args:
        folder: Where all of them keep what they have.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.state = folder / "state"
        self.children: dict[str, Child] = {}
        self.invites: dict[str, str] = {}
        self.urls: dict[str, str] = {}

    def start(self, name: str, *arguments: str) -> Child:
        """Starts a command of the contributor, to run until it is ended."""
        return self._start(name, arguments, self.home)

    def _start(self, name: str, arguments: Sequence[str], home: Path) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        child = self.children[name] = Child(name, arguments, log, {**QUICK, "FOLKMOOT_HOME": str(home)})
        return child

    def neighbour(self, name: str) -> None:
        """Starts a node of somebody else's for a coordinator."""
        folder = self.folder / f"near-{name}"
        arguments = ["node", "join", "-", "--threads", "1", "--memory", "64MiB"]
        self._start(f"{name}'s neighbour", arguments, folder).tell(self.invites[name])

    def serve(self, model: Path, *names: str) -> None:
        """Starts coordinators, and returns when they take nodes."""
        ports = ["--port", "0", "--api-port", "0", "--threads", "1", "--json"]
        arguments = ["coordinator", "serve", "--model", str(model), *ports, "--state"]
        children = [
            self._start(name, [*arguments, str(self.folder / name)], self.folder / name) for name in names
        ]
        for name, child in zip(names, children, strict=True):
            ready = json.loads(child.read_line())
            self.invites[name], self.urls[name] = ready["invite"], ready["api"]

    def ask(self, name: str) -> None:
        """Asks a coordinator's model; that it answers is all that is wanted."""
        with FolkmootClient(self.urls[name]) as client:
            with client.chat([{"role": "user", "content": "Why?"}], max_tokens=4) as answer:
                list(answer)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Runs a command to its end, and returns what it printed; its code must be this."""
        ended = subprocess.run(
            [*COMMAND, *arguments],
            check=False,
            cwd=self.folder,
            env={**os.environ, **QUICK, "FOLKMOOT_HOME": str(self.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert ended.returncode == code, (arguments, ended.stdout, ended.stderr)
        return ended.stdout + ended.stderr

    def status(self) -> dict[str, Any]:
        """What the contributor's node says of itself."""
        document: dict[str, Any] = ask(self.state, "status", timeout_s=PATIENCE_S)
        return document

    def states(self) -> dict[str, str]:
        """Where it stands, by coordinator."""
        return {one["name"]: one["state"] for one in self.status()["coordinators"]}

    def seen(self, name: str) -> dict[str, Any] | None:
        """What a coordinator says of the contributor's node."""
        with FolkmootClient(self.urls[name]) as client:
            nodes: list[dict[str, Any]] = client.network()["nodes"]
        return next((node for node in nodes if node["name"] == "Ada"), None)

    def sees(self, name: str, state: str) -> bool:
        """Whether that is the state that a coordinator says."""
        seen = self.seen(name)
        return seen is not None and seen["state"] == state

    def until(self, condition: Callable[[], object]) -> None:
        """Waits until it is so; a process that ends meanwhile fails the test with its last words."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            for child in self.children.values():
                child.check()
            assert time.monotonic() < deadline, (self.tails(), [self.seen(name) for name in self.urls])
            time.sleep(0.05)

    def tails(self) -> dict[str, list[str]]:
        """The last words of all."""
        return {name: child.tail() for name, child in self.children.items()}

    def close(self) -> None:
        """Ends everything."""
        for child in self.children.values():
            child.ask_to_end()
        for child in self.children.values():
            child.end()


def last_words(child: Child) -> str:
    """How a process ended, once it has."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            child.check()
        except ChildEndedError as error:
            child.end()
            return str(error)
        time.sleep(0.05)
    raise AssertionError(child.tail())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return prepare(str(tiny_checkpoint("mixtral", folder / "checkpoint")), folder / "tiny").folder


@pytest.fixture
def village(tmp_path: Path) -> Iterator[Village]:
    village = Village(tmp_path)
    try:
        yield village
    finally:
        village.close()


@pytest.mark.timeout(400)
def test_a_contributors_day(village: Village, model: Path) -> None:
    village.serve(model, *NAMES)
    for name in NAMES:
        village.neighbour(name)

    options = ["--public-name", "Ada", "--memory", "64MiB", "--disk", "64MiB", "--threads", "1"]
    village.run("node", "init", "--yes", "--name", "kitchen", "--state", str(village.state), *options)
    assert "is there already" in village.run("node", "init", "--yes", code=2)
    assert "no coordinator was joined" in village.run("node", "start", code=2)
    for name in NAMES:
        assert f"joined {name}" in village.run("node", "join", village.invites[name], "--as", name, "--later")
    assert "folkmoot node start" in village.run("node", "status", code=7)

    node = village.start("kitchen", "node", "start", "--log-format", "json")
    village.until(lambda: runs(village.state))
    village.until(lambda: village.states() == dict.fromkeys(NAMES, "ready"))
    document = json.loads(village.run("node", "status", "--json"))
    assert (document["name"], document["public_name"]) == ("kitchen", "Ada")
    assert sum(one["memory_bytes"] for one in document["coordinators"]) <= 64 << 20
    assert all(one["experts_held"] == one["experts_assigned"] > 0 for one in document["coordinators"])
    assert "kitchen" in village.run("node", "status")
    for name in NAMES:
        village.ask(name)

    village.run("node", "pause", "--reason", "a game")
    for name in NAMES:
        village.until(functools.partial(village.sees, name, "paused"))
        village.ask(name)
    assert village.status()["resting"] == "a game"
    village.run("node", "resume")
    village.until(lambda: village.states() == dict.fromkeys(NAMES, "ready"))

    assert "left paris" in village.run("node", "leave", "paris")
    village.until(lambda: village.states() == {"london": "ready"})
    assert f"joined {NAMES[1]}" in village.run("node", "join", village.invites["paris"], "--as", "paris")
    village.until(lambda: village.states() == dict.fromkeys(NAMES, "ready"))

    drained = village.run("node", "drain")
    assert [line.split("\t")[:2] for line in drained.splitlines() if "\t" in line] == [
        [name, "relieved"] for name in NAMES
    ]
    village.children.pop("kitchen")
    assert "with code 0" in last_words(node)
    # The core of gRPC writes lines of its own.
    lines = [line for line in node.log.read_text().splitlines() if line.startswith("{") or "folkmoot" in line]
    assert lines
    for line in lines:
        assert json.loads(line)["logger"].startswith(("folkmoot.", "root", "grpc", "asyncio"))
    for name in NAMES:
        village.ask(name)


def test_outside_of_its_hours_a_node_starts_and_rests(village: Village, model: Path) -> None:
    village.serve(model, "london")
    hour = (time.localtime().tm_hour + 2) % 24
    hours = f"{hour:02d}:00-{(hour + 1) % 24:02d}:00"
    arguments = ["--public-name", "Ada", "--memory", "64MiB", "--state", str(village.state), "--hours", hours]
    node = village.start("kitchen", "node", "join", "-", *arguments)
    node.tell(village.invites["london"])
    village.until(functools.partial(village.sees, "london", "paused"))
    said = village.run("node", "status", "--state", str(village.state))
    assert f"outside of its hours ({hours}); back at {hour:02d}:00" in said
    village.run("node", "resume", "--state", str(village.state))
    village.until(functools.partial(village.sees, "london", "ready"))


def test_a_node_that_runs_refuses_other_limits_and_one_that_was_killed_leaves_nothing_in_the_way(
    village: Village, model: Path
) -> None:
    village.serve(model, "london")
    join = ["node", "join", village.invites["london"], "--state", str(village.state)]
    first = village.start("first", *join)
    village.until(lambda: runs(village.state))
    assert "within the limits" in village.run(*join, "--memory", "1GiB", code=2)
    assert "joined 127.0.0.1" in village.run(*join)
    village.children.pop("first")
    os.kill(first.pid, 9)
    first.end()
    assert "no node runs" in village.run("node", "pause", "--state", str(village.state), code=7)
    village.start("second", "node", "start", "--state", str(village.state))
    village.until(lambda: runs(village.state))
    assert "127.0.0.1" in village.run("node", "status", "--state", str(village.state))
