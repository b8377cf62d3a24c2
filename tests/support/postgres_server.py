"""A real PostgreSQL server of the tests' own, on a Unix socket in a folder that nobody else can enter.

Guarantees: it listens on no network; every `database` is empty and one test's own until that gives it back; `close` ends it and removes its files. The binaries are those of the
wheel `pgserver`, or, where there is none for this Python, of the PATH. The server refuses to be root: where the tests are, it
runs as `nobody`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg

PATIENCE_S: Final = 60.0
_UNPRIVILEGED: Final = "nobody"
_ADMIN: Final = "postgres"


class PostgresServer:
    """One server; `start` it first."""

    def __init__(self) -> None:
        # Short: the path of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="fm-pg-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._free: list[str] = []
        self._as_user: dict[str, Any] = {"cwd": self._folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._programs = self._reachable(_programs())
        self._run(
            "initdb", "-D", self._data, "-U", _ADMIN, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"
        )

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._data,
                    "-k",
                    self._folder,
                    "-c",
                    "listen_addresses=",
                ],
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.ask("SELECT 1")
                return
            except psycopg.OperationalError as error:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline_s, error
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the server and all that it started: as when the machine loses power, but for the disk."""
        assert self._process is not None
        self.ask("SELECT 1")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._until_gone()

    def stop(self) -> None:
        """Makes it silent: it and all that it started stop where they are, and connections stay."""
        assert self._process is not None
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends that."""
        assert self._process is not None
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes everything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # its files go away: they need not be in order
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self) -> str:
        """The URL of an empty database."""
        if self._free:
            return self._free.pop()
        self._databases += 1
        name = f"books{self._databases}"
        self.ask(f"CREATE DATABASE {name}")
        return f"postgresql://{_ADMIN}@/{name}?host={self._folder}"

    def give_back(self, url: str) -> None:
        """Empties a database for the next: making one takes longer."""
        self.cut(url)
        self.ask("DROP SCHEMA public CASCADE", _name(url))
        self.ask("CREATE SCHEMA public", _name(url))
        self._free.append(url)

    def admit(self, url: str, *, connections: bool) -> None:
        """Whether a database may be connected to; ends all connections if not."""
        self.ask(f"ALTER DATABASE {_name(url)} ALLOW_CONNECTIONS {str(connections).lower()}")
        if not connections:
            self.cut(url)

    def cut(self, url: str) -> None:
        """Ends every connection to a database."""
        self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_name(url)}'")

    def ask(self, statement: str, database: str = _ADMIN) -> None:
        """Runs a statement as the server's administrator."""
        with psycopg.connect(
            host=str(self._folder), user=_ADMIN, dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str | Path) -> None:
        ran = subprocess.run(
            [self._programs / program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            **self._as_user,
        )
        assert ran.returncode == 0, ran.stderr

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        for path in _processes():
            if _command(path).startswith(b"postgres: ") and self._ours(path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.name), number)

    def _until_gone(self) -> None:
        """Waits until what the killed server had started is gone too: a new one would refuse to share its memory."""
        deadline_s = time.monotonic() + PATIENCE_S
        while any(_command(path).startswith(b"postgres: ") and self._ours(path) for path in _processes()):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def _ours(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            return (process / "cwd").readlink() == self._data
        return False

    def _reachable(self, programs: Path) -> Path:
        """The programs where the server's user may run them: a copy, if they lie in a folder that only root can enter."""
        with contextlib.suppress(OSError):
            subprocess.run(
                [programs / "postgres", "--version"], check=True, capture_output=True, **self._as_user
            )
            return programs
        copy = self._folder / "programs"
        shutil.copytree(programs.parent, copy, symlinks=True)
        return copy / programs.name


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def _programs() -> Path:
    found = importlib.util.find_spec("pgserver")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "pginstall" / "bin"
    initdb = shutil.which("initdb")
    assert initdb is not None, (
        "install PostgreSQL, or a Python that pgserver has a wheel for: pip install pgserver"
    )
    return Path(initdb).resolve().parent


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""
