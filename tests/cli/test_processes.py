"""Commands as processes: what they import, and how they end when they are interrupted or left alone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from folkmoot.cli.child import Child, ChildEndedError
from folkmoot.cli.local_network import LocalNetwork
from folkmoot.coordinator.listening import PortInUseError
from folkmoot.disk import DiskFullError
from folkmoot.state_lock import StateError
from folkmoot.tests.support.api_bench import ApiBench, api_bench
from folkmoot.tests.support.scripted_engine import Finish, Hold, Say, ScriptedEngine
from folkmoot.trust.invite import Invite

COMMAND = [sys.executable, "-P", "-m", "folkmoot.cli.main"]
WAIT_S = 60.0
HEAVY = ("torch", "transformers", "grpc", "numpy", "fastapi")


@pytest.fixture
def bench() -> Iterator[ApiBench]:
    with api_bench(ScriptedEngine(Say("Blue"), Finish())) as bench:
        yield bench


@pytest.mark.parametrize("command", ["--help", "ask", "status", "node join --help"])
def test_light_commands_import_nothing_heavy(bench: ApiBench, command: str, tmp_path: Path) -> None:
    arguments = [*command.split(), *(["Why?"] if command == "ask" else [])]
    script = (
        "import sys; from folkmoot.cli.main import run; "
        f"code = run({arguments!r}); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    environment = {**os.environ, "FOLKMOOT_URL": bench.url}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


def test_an_interrupted_question_ends_cleanly_and_is_cancelled(bench: ApiBench, tmp_path: Path) -> None:
    bench.engine.script = [Say("Blue"), Hold()]
    process = subprocess.Popen(
        [*COMMAND, "ask", "Why?", "--url", bench.url],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(4) == b"Blue"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert bench.engine.submitted[0].cancelled.wait(WAIT_S)


def test_a_child_that_ends_is_named_with_its_reason_and_log(tmp_path: Path) -> None:
    child = Child("node-1", ["node", "join", "nonsense"], tmp_path / "logs" / "node-1.log")
    try:
        with pytest.raises(ChildEndedError, match="node-1 ended with code 2 .*invite.*node-1.log") as caught:
            child.read_line()
        assert caught.value.exit_code == 2
    finally:
        child.end()
    assert "Traceback" not in child.log.read_text()


def test_a_child_is_ended_for_good(tmp_path: Path) -> None:
    child = Child("node-1", ["node", "join", "-"], tmp_path / "node-1.log")
    child.check()
    child.end()
    with pytest.raises(ChildEndedError) as caught:
        child.check()
    assert caught.value.exit_code == 7
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with LocalNetwork(tmp_path, 1, tmp_path / "home" / "demo") as network:
        with pytest.raises(StateError, match="home/demo cannot be used .*FOLKMOOT_HOME"):
            network.open()


def test_a_disk_without_room_for_logs_is_seen_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: (10**9, 10**9, 0))
    with LocalNetwork(tmp_path, 1, tmp_path / "demo") as network:
        with pytest.raises(DiskFullError, match="demo has 0 B free.*free some"):
            network.open()
    assert not (tmp_path / "demo" / "logs").exists()


class Started:
    """Stands for a process: keeps what it was started with."""

    all: ClassVar[list[Sequence[str]]] = []

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *_: object) -> None:
        self.all.append(arguments)

    def read_line(self) -> str:
        """What a coordinator says."""
        return '{"api": "http://127.0.0.1:9", "invite": "folkmoot1-x"}'

    def tell(self, line: str) -> None:
        """Ignored."""

    def ask_to_end(self) -> None:
        """Ignored."""

    def end(self) -> int:
        """Ignored."""
        return 0


def test_nodes_of_one_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folkmoot.cli.local_network.Child", Started)
    monkeypatch.setattr("folkmoot.cli.local_network.available_memory_bytes", lambda: 8 << 30)
    Started.all.clear()
    with LocalNetwork(tmp_path, 4, tmp_path / "demo") as network:
        network.open()
    lent = [int(words[words.index("--memory") + 1]) for words in Started.all if words[0] == "node"]
    assert len(lent) == 4
    assert len(set(lent)) == 1
    assert 4 << 30 < sum(lent) < 8 << 30


class WithoutPort(Started):
    """The same, and it ends when it shall listen where somebody does."""

    taken: ClassVar[int] = 0
    code: ClassVar[int] = PortInUseError.exit_code

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *_: object) -> None:
        super().__init__(name, arguments, log)
        self._ends = "--api-port" in arguments and str(self.taken) in arguments

    def read_line(self) -> str:
        if self._ends:
            raise ChildEndedError("the coordinator ended", advice="see its log", code=self.code)
        return super().read_line()


@pytest.mark.parametrize(
    ("taken", "code", "starts"), [(True, 7, ["taken", "0"]), (True, 3, ["taken"]), (False, 7, ["taken"])]
)
def test_a_port_that_another_network_gets_first_is_left_to_it(
    taken: bool, code: int, starts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.cli.local_network.Child", WithoutPort)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(WithoutPort, "taken", port)
        monkeypatch.setattr(WithoutPort, "code", code)
        if not taken:
            other.close()
        Started.all.clear()
        with LocalNetwork(tmp_path, 1, tmp_path / "demo", api_port=port) as network:
            with pytest.raises(ChildEndedError) if len(starts) == 1 else contextlib.nullcontext():
                network.open()
    served = [words for words in Started.all if words[0] == "coordinator"]
    asked = [words[words.index("--api-port") + 1] for words in served]
    assert asked == [str(port) if start == "taken" else start for start in starts]


def test_an_error_that_cannot_be_said_keeps_its_exit_code(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, "node", "join", "nonsense"], check=False, cwd=tmp_path, stderr=full, timeout=WAIT_S
        )
    assert ended.returncode == 2


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_fault_and_no_file_takes_their_place(
    bench: ApiBench, closed: tuple[int, ...], tmp_path: Path
) -> None:
    """The command opens a file, and then writes to the streams: what it says must not end up in the file."""
    script = (
        "import os, sys; from folkmoot.cli import main; main.open_closed_streams(); "
        "file = open('kept', 'wb'); assert file.fileno() > 2; "
        f"print('out'); print('err', file=sys.stderr); sys.exit(main.run(['ask', '-', '--url', {bench.url!r}]))"
    )
    streams = "".join(f"{number}<&- " for number in closed)
    command = f'{sys.executable} -c "$SCRIPT" {streams}'
    ended = subprocess.run(
        ["sh", "-c", command],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "SCRIPT": script},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "kept").read_bytes() == b""


def test_an_endless_invite_is_not_read_to_its_end(tmp_path: Path) -> None:
    with Path("/dev/zero").open("rb") as endless:
        ended = subprocess.run(
            [*COMMAND, "node", "join", "-"],
            check=False,
            cwd=tmp_path,
            stdin=endless,
            capture_output=True,
            timeout=WAIT_S,
        )
    assert ended.returncode == 2
    assert b"invite" in ended.stderr


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """The parent starts a node that looks for its coordinator for ever, and is killed with no chance to clean up."""
    invite = Invite("127.0.0.1", 9, bytes(32), bytes(16)).encode()
    arguments = ["node", "join", "-", "--state", str(tmp_path / "state")]
    script = (
        "import pathlib, sys, time; from folkmoot.cli.child import Child; "
        f"child = Child('node-1', {arguments!r}, pathlib.Path(sys.argv[1])); child.tell({invite!r}); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "node-1.log"
    parent = subprocess.Popen([sys.executable, "-c", script, str(log)], cwd=tmp_path, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    try:
        until(lambda: "trying again" in log.read_text())
        parent.kill()
        parent.communicate(timeout=WAIT_S)
        readable, _, _ = select.select([child], [], [], WAIT_S)
        assert readable, "the child outlived its parent"
    finally:
        os.close(child)


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
