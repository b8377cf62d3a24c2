"""One `folkmoot` command as a process of its own.

Guarantees: it runs the interpreter and package that run now; it is in a session of its own, so that Ctrl-C in the terminal
reaches only its parent, which ends it; it ends itself when its parent dies of anything at all; `end` leaves no process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UnavailableError
from .daemon import PARENT_VARIABLE

PROGRAM = "folkmoot.cli.main"
"""The module that a process runs."""
TAIL_LINES = 12
END_TIMEOUT_S = 8.0
SIGNALLED = 128
"""From here on, exit codes tell of signals: what somebody did to the process, not what was wrong with it."""


class ChildEndedError(UnavailableError):
    """A process that should run has ended; whoever ends of that says with its exit code what the process ended of.

    Args:
        message, advice: As every error's.
        code: The process's exit code; negative when a signal ended it.
    """

    def __init__(self, message: str, *, advice: str, code: int) -> None:
        super().__init__(message, advice=advice)
        if 0 < code < SIGNALLED:
            self.exit_code = code


class Child:
    """A running `folkmoot` command.

    Attributes:
        name: What people call it.
        log: The file that its standard error goes to.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        program: str = PROGRAM,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # -P: the working folder must not become an import path, or folders in it shadow packages.
        command = [sys.executable, "-P", "-m", program, *arguments]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=log.parent,
                env={**os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def stay_on(self, cores: set[int]) -> None:
        """Keeps all threads that it has now, and those that they start, on these processor cores. Linux only."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                os.sched_setaffinity(int(task.name), cores)

    def tell(self, line: str) -> None:
        """Writes one line to its standard input, and closes that."""
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stream:
                stream.write(line.encode() + b"\n")
        except BrokenPipeError:
            self.check()

    def read_line(self) -> str:
        """Waits for one line of its standard output.

        Raises:
            ChildEndedError: when it ends without one.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self.check()
        return line.decode().rstrip("\n")

    def check(self) -> None:
        """Returns while it runs.

        Raises:
            ChildEndedError: when it has ended; shows the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            last = self.tail()[-1:]
            raise ChildEndedError(
                f"{self.name} ended with code {code}"
                + (f" ({last[0].removeprefix('error: ')})" if last else ""),
                advice=f"see {self.log}",
                code=code,
            )

    def tail(self) -> list[str]:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-TAIL_LINES:]

    def ask_to_end(self) -> None:
        """Sends SIGTERM, if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> int:
        """Waits until it has ended by itself, and returns its exit code.

        Raises:
            TimeoutError: when it still runs after so long.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout_s:.0f} s") from None

    def end(self) -> int:
        """Ends it, by force if it takes too long, waits until it is gone, and returns its exit code."""
        self.ask_to_end()
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        return code
