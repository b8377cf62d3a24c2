"""Coordinators as processes of their own that start where their imports are done: those are most of a start.

Guarantees: each runs `folkmoot` with arguments, environment, session and streams of its own, and can be killed as any process; each is
forked from a process that has imported and done nothing else, so nothing of one is in the next; all end with their `Forks`.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Self

from folkmoot.cli import main
from folkmoot.cli.child import END_TIMEOUT_S, ChildEndedError
from folkmoot.cli.daemon import PARENT_VARIABLE

POLL_S: Final = 0.005
_IMPORTED: Final = (
    "folkmoot.coordinator.app",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.postgresql.psycopg",
)


@dataclass(frozen=True)
class _Start:
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    output: Path


class Forks:
    """Starts coordinators; a context."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._requests, theirs = context.Pipe()
        self._parent = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._parent.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.close()
        self._parent.join()

    def start(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> ForkedCoordinator:
        """Starts one."""
        log.parent.mkdir(parents=True, exist_ok=True)
        start = _Start(list(arguments), {**os.environ, **environment}, log, log.with_suffix(".out"))
        for path in (start.log, start.output):
            path.write_bytes(b"")
        self._requests.send(start)
        return ForkedCoordinator(name, self, self._requests.recv(), start)

    def exit_code(self, pid: int) -> int | None:
        """What a process has ended with; None while it runs."""
        self._requests.send(pid)
        code: int | None = self._requests.recv()
        return code


class ForkedCoordinator:
    """A running coordinator, used as a `folkmoot.cli.child.Child`.

    Attributes:
        name: What people call it.
        pid: The process id.
        log: The file that its standard error goes to.
    """

    def __init__(self, name: str, forks: Forks, pid: int, start: _Start) -> None:
        self.name = name
        self.pid = pid
        self.log = start.log
        self._output = start.output
        self._forks = forks
        self._code: int | None = None

    def read_line(self) -> str:
        """Waits for the first line of its standard output. Raises ChildEndedError when it ends without one."""
        while "\n" not in (text := self._output.read_text()):
            self.check()
            time.sleep(POLL_S)
        return text.partition("\n")[0]

    def check(self) -> None:
        """Returns while it runs. Raises ChildEndedError."""
        code = self._poll()
        if code is not None:
            last = self.log.read_text(errors="replace").rpartition("\n")[0].rpartition("\n")[2]
            raise ChildEndedError(
                f"{self.name} ended with code {code} ({last})", advice=f"see {self.log}", code=code
            )

    def wait(self, timeout_s: float) -> int:
        """Waits until it has ended by itself, and returns its exit code. Raises TimeoutError."""
        deadline_s = time.monotonic() + timeout_s
        while (code := self._poll()) is None:
            if time.monotonic() >= deadline_s:
                raise TimeoutError(f"{self.name} still runs after {timeout_s:.0f} s")
            time.sleep(POLL_S)
        return code

    def ask_to_end(self) -> None:
        """Sends SIGTERM, if it still runs."""
        self._signal(signal.SIGTERM)

    def end(self) -> int:
        """Ends it, by force if it takes too long, waits until it is gone, and returns its exit code."""
        self.ask_to_end()
        with contextlib.suppress(TimeoutError):
            return self.wait(END_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        return self.wait(END_TIMEOUT_S)

    def _poll(self) -> int | None:
        if self._code is None:
            self._code = self._forks.exit_code(self.pid)
        return self._code

    def _signal(self, number: signal.Signals) -> None:
        if self._poll() is None:
            # It is its parent's until that was asked: no other process has its number.
            os.kill(self.pid, number)


def _serve(requests: Connection) -> None:
    """Forks until nobody asks any more; a process that has ended stays known until its exit code was asked for."""
    for name in _IMPORTED:
        importlib.import_module(name)
    with contextlib.suppress(EOFError):
        while True:
            request: _Start | int = requests.recv()
            if isinstance(request, _Start):
                pid = os.fork()
                if pid == 0:
                    requests.close()
                    _run(request)
                requests.send(pid)
            else:
                ended, status = os.waitpid(request, os.WNOHANG)
                requests.send(os.waitstatus_to_exitcode(status) if ended else None)


def _run(start: _Start) -> None:
    """Becomes a coordinator; never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(start.log.parent)
        os.environ.clear()
        os.environ.update(start.environment | {PARENT_VARIABLE: str(os.getppid())})
        for number, path, mode in (
            (0, Path(os.devnull), os.O_RDONLY),
            (1, start.output, os.O_WRONLY),
            (2, start.log, os.O_WRONLY),
        ):
            descriptor = os.open(path, mode)
            os.dup2(descriptor, number)
            os.close(descriptor)
        code = main.run(start.arguments)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
