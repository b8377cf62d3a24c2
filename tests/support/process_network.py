"""A coordinator and nodes as real processes that tests can kill and start again.

Guarantees: a process that is started again has the state, the ports and the name that it had before; leaving the context
ends every process; waiting is for conditions, and a process that ends unasked fails the test with its own last words.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from folkmoot.cli.child import Child, ChildEndedError
from folkmoot.client import FolkmootClient
from folkmoot.errors import UnavailableError
from folkmoot.node.control import ask, runs
from folkmoot.tests.support.forked_coordinator import ForkedCoordinator, Forks
from folkmoot.trust.invite import Invite

PATIENCE_S = 90.0
POLL_S = 0.02
QUICK = {
    "FOLKMOOT_COORDINATOR_ENGINE__KV_MEMORY_BYTES": str(32 << 20),
    "FOLKMOOT_NODE_HOLDINGS_INTERVAL_S": "0.05",
    "FOLKMOOT_NODE_RECONNECT_FIRST_S": "0.1",
    "FOLKMOOT_NODE_RECONNECT_CAP_S": "0.5",
}


class ProcessNetwork:
    """One network on loopback.

    Args:
        model: Folder of the prepared model.
        folder: Where its processes keep their state and logs.
        nodes: Their names.
        memory: What each node lends, as `--memory` takes it.
        environment: Settings of the processes, besides quick ones.
        forks: Where coordinators are forked; None starts each with an interpreter of its own.
    """

    def __init__(
        self,
        model: Path,
        folder: Path,
        nodes: tuple[str, ...],
        *,
        memory: str = "64MiB",
        environment: Mapping[str, str] | None = None,
        forks: Forks | None = None,
    ) -> None:
        self.names = nodes
        self._model = model
        self._folder = folder
        self._memory = memory
        self._environment = {**QUICK, "FOLKMOOT_HOME": str(folder), **(environment or {})}
        self._ports = {"--port": 0, "--api-port": 0}
        self._forks = forks
        self._children: dict[str, Child | ForkedCoordinator] = {}
        self._starts = 0
        self.invite = self.api_url = ""

    def __enter__(self) -> Self:
        """Starts everything; returns when every node holds what it shall and every expert has a host."""
        try:
            self.start("coordinator", *self.names)
            self.until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *names: str) -> None:
        """Starts processes that do not run; a coordinator is waited for until it takes nodes."""
        nodes: list[Child] = []
        for name in names:
            assert name not in self._children, f"{name} runs already"
            if name == "coordinator":
                self._children[name] = self._coordinator()
            else:
                nodes.append(self._node(name))
                self._children[name] = nodes[-1]
        if "coordinator" in names:
            ready = json.loads(self._first_line())
            self.invite, self.api_url = ready["invite"], ready["api"]
            api_port = int(self.api_url.rpartition(":")[2])
            self._ports = {"--port": Invite.parse(self.invite).port, "--api-port": api_port}
        for node in nodes:
            node.tell(self.invite)

    def _first_line(self) -> str:
        """What the coordinator says when it takes nodes. While it was down, another program's connection may have got its port: it is
        started again until that ends."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._children["coordinator"].read_line()
            except ChildEndedError as error:
                if error.exit_code != UnavailableError.exit_code or time.monotonic() > deadline:
                    raise
            self._children.pop("coordinator").end()
            time.sleep(POLL_S)
            self._children["coordinator"] = self._coordinator()

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye, no clean-up."""
        child = self._children.pop(name)
        os.kill(child.pid, signal.SIGKILL)
        child.end()

    def stop(self, name: str) -> int:
        """SIGTERM, as an operator stops it; returns its exit code."""
        return self._children.pop(name).end()

    def drain(self, name: str) -> Any:
        """`folkmoot node drain`: it hands over what it has, and goes; returns how each of its coordinators let it go."""
        state = self._folder / name
        deadline = time.monotonic() + PATIENCE_S
        while not (runs(state) and ask(state, "status")["coordinators"]):
            self.check()
            assert time.monotonic() < deadline, f"{name} takes no orders"
            time.sleep(POLL_S)
        ends = ask(state, "drain", timeout_s=PATIENCE_S, at_once=False, stay=False)
        child = self._children.pop(name)
        try:
            child.wait(PATIENCE_S)
        finally:
            child.end()
        return ends

    def heal(self) -> None:
        """Starts whatever does not run, and waits until the network is whole."""
        missing = [name for name in ("coordinator", *self.names) if name not in self._children]
        self.start(*missing)
        self.until_whole()

    def until_whole(self) -> dict[str, Any]:
        """Waits until every node is ready and every expert has a host, two where two are possible."""

        def whole(network: dict[str, Any]) -> bool:
            ready = [node for node in network["nodes"] if node["state"] == "ready"]
            return len(ready) == len(self.names) and network["coverage"]["fraction"] == 1

        return self.until(whole)

    def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Waits until what `/v1/network` says fulfils a condition, and returns it."""
        deadline = time.monotonic() + PATIENCE_S
        with FolkmootClient(self.api_url) as client:
            while True:
                self.check()
                network = client.network()
                if condition(network):
                    return network
                assert time.monotonic() < deadline, f"it did not come true in time: {network}"
                time.sleep(POLL_S)

    def node(self, name: str) -> dict[str, Any]:
        """What the network says of a node now."""
        with FolkmootClient(self.api_url) as client:
            return next(node for node in client.network()["nodes"] if node["name"] == name)

    def check(self) -> None:
        """Raises ChildEndedError when a process that nobody killed has ended."""
        for child in self._children.values():
            child.check()

    def pid(self, name: str) -> int:
        """The id of a running process."""
        return self._children[name].pid

    def log(self, name: str) -> str:
        """What the running process of this name has logged so far."""
        return self._children[name].log.read_text()

    def close(self) -> None:
        """Ends all processes."""
        children = list(self._children.values())
        self._children.clear()
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end()

    def _coordinator(self) -> Child | ForkedCoordinator:
        arguments = ["coordinator", "serve", "--json", "--threads", "1", "--model", str(self._model)]
        for option, port in self._ports.items():
            arguments += [option, str(port)]
        arguments += ["--state", str(self._folder / "coordinator")]
        if self._forks is not None:
            return self._forks.start(
                "coordinator", arguments, self._new_log("coordinator"), self._environment
            )
        return Child("coordinator", arguments, self._new_log("coordinator"), self._environment)

    def _node(self, name: str) -> Child:
        options = {"--threads": "1", "--name": name, "--memory": self._memory}
        arguments = ["node", "join", "-", "--state", str(self._folder / name)]
        for option, value in options.items():
            arguments += [option, value]
        return Child(name, arguments, self._new_log(name), self._environment)

    def _new_log(self, name: str) -> Path:
        """The file of a process's next life."""
        self._starts += 1
        return self._folder / "logs" / f"{self._starts}-{name}.log"
