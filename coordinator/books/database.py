"""The database that the books are in: a SQLite file in the state folder, or a PostgreSQL server.

Guarantees: when `write` has returned, what it did survives the end of this process, of the database's and of the machine's power;
when it raises, nothing of it is there, unless the connection was lost at the very end, where nobody can know: whatever is
written must be such that writing it again changes nothing. One process writes, and any number read: on a server `claim` sees to that;
to a file it lets only one coordinator's key, whose state folder is locked. A server that does not answer is waited for a bounded
time. Every error is one of ours, and names the books without their password. Methods block, and may be called from any thread.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import InterfaceError as DriverInterfaceError
from sqlalchemy.exc import OperationalError as DriverOperationalError
from sqlalchemy.pool import NullPool

from ...errors import FolkmootError
from . import migrations
from .books_url import books_url
from .errors import (
    BooksDamagedError,
    BooksFaultError,
    BooksFullError,
    BooksInUseError,
    BooksUnavailableError,
    BooksUrlError,
    ForeignBooksError,
)
from .server import impatient, server_arguments, set_up_server
from .settings import BooksSettings
from .tables import facts

log = logging.getLogger(__name__)

COORDINATOR_FACT: Final = "coordinator"
CLAIM_WITHIN_S: Final = 15.0
"""How long a server may take to see that the process which wrote these books before is gone."""
CLOSE_WITHIN_S: Final = 1.0
"""How long `close` waits for what another thread does with the books."""
_ADVISORY_LOCK: Final = 0x666F6C6B6D6F6F74
_WRITER: Final = "folkmoot_writer"
_FULL_STATE: Final = "53100"
_DAMAGED_STATES: Final = ("XX001", "XX002")

T = TypeVar("T")


class Database:
    """One coordinator's database."""

    def __init__(self, settings: BooksSettings, folder: Path) -> None:
        """Opens nothing yet. `folder` is the state folder, where the file is if no URL is given.

        Raises:
            BooksUrlError: when the URL is none, or its driver is not installed.
        """
        self.url = books_url(settings, folder)
        self.where = f"the books in {self.url.database if self.is_file else self.url.render_as_string()}"
        self._busy_s = settings.busy_s
        self._lock = threading.Lock()
        self._writer: Connection | None = None
        self._coordinator = b""
        self._checked = False
        self._closed = False
        self._engine = self._make_engine()

    @property
    def is_file(self) -> bool:
        """Whether it is a SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    def is_at(self, path: Path) -> bool:
        """Whether it is this file."""
        return self.is_file and Path(self.url.database or "").resolve() == path.resolve()

    @property
    def there(self) -> bool:
        """Whether there may be something: a file that does not exist has nothing."""
        return not self.is_file or Path(self.url.database or "").exists()

    def claim(self, coordinator: bytes) -> None:
        """Makes these books this coordinator's, brings them to today's version, and keeps others from writing.

        Raises:
            ForeignBooksError: when they are another's, or of a later version.
            BooksInUseError: when another process writes them.
            BooksDamagedError, BooksFullError, BooksUnavailableError: when they cannot be used.
        """
        self._coordinator = coordinator
        until_s = time.monotonic() + CLAIM_WITHIN_S
        while True:
            try:
                self.write(lambda connection: None)
                return
            except BooksInUseError:
                if time.monotonic() >= until_s:
                    raise
            time.sleep(0.1)

    def write(self, work: Callable[[Connection], T], *, long: bool = False) -> T:
        """Does work in one transaction; returns what it returns once that is durable.

        Args:
            work: What to do.
            long: It may take longer than a server is usually waited for.

        Raises:
            BooksFaultError: when the database refuses what was written, and would again.
            FolkmootError: one of this room's errors; trying again later may help.
        """
        with self._lock:
            try:
                if self._writer is None:
                    self._writer = self._connected()
                with nullcontext() if long else self._impatient(self._writer), self._writer.begin():
                    return work(self._writer)
            except (SQLAlchemyError, OSError) as error:
                self._let_go()
                raise self._named(error) from error
            except FolkmootError:
                self._let_go()
                raise
            finally:
                if self._closed:  # meanwhile, and it could not wait
                    self._let_go()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Does work that only reads, upon one state of the books.

        Raises:
            FolkmootError: one of this room's errors.
        """
        try:
            with self._reader() as connection, self._impatient(connection), connection.begin():
                return work(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._named(error) from error

    def write_beside(self, work: Callable[[Connection], T]) -> T:
        """Does work in one transaction beside the process that writes the books, which must not have what is changed in memory.

        Raises:
            FolkmootError: one of this room's errors.
        """
        try:
            with (
                self._engine.connect().execution_options(**{_WRITER: True}) as connection,
                self._impatient(connection),
                connection.begin(),
            ):
                return work(connection)
        except (SQLAlchemyError, OSError) as error:
            raise self._named(error) from error

    def close(self) -> None:
        """Lets others write. Twice is harmless. What another thread is still at is left to it."""
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_WITHIN_S):
            try:
                self._let_go()
            finally:
                self._lock.release()
        else:
            log.error("%s do not answer; their connection is left as it is", self.where)
        self._engine.dispose()

    def _reader(self) -> Connection:
        """A connection whose transactions see one state of the books."""
        connection = self._engine.connect()
        # A transaction of SQLite's is that anyway.
        return connection if self.is_file else connection.execution_options(isolation_level="REPEATABLE READ")

    def _impatient(self, connection: Connection) -> AbstractContextManager[None]:
        """Ends what a server does not answer."""
        return nullcontext() if self.is_file else impatient(connection.connection.driver_connection)

    def _connected(self) -> Connection:
        """The one connection that writes, once the books are known to be ours."""
        if self.is_file:
            _make_file(Path(self.url.database or ""))
        connection = self._engine.connect().execution_options(**{_WRITER: True})
        try:
            if not self.is_file:
                self._lock_server(connection)
            with self._impatient(connection), connection.begin():
                if self.is_file and not self._checked:
                    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                    if found != "ok":
                        raise self._damaged(str(found))
                    self._checked = True
                migrations.migrate(connection, self.where)
                self._check_owner(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _lock_server(self, connection: Connection) -> None:
        with self._impatient(connection), connection.begin():
            query = text("SELECT pg_try_advisory_lock(:key)")
            if not connection.execute(query, {"key": _ADVISORY_LOCK}).scalar():
                raise BooksInUseError(
                    f"another coordinator writes {self.where}",
                    advice="stop it, or name another database with --books",
                )

    def _check_owner(self, connection: Connection) -> None:
        mine = self._coordinator.hex()
        query = select(facts.c.value).where(facts.c.name == COORDINATOR_FACT)
        found = connection.execute(query).scalar()
        if found is None:
            connection.execute(facts.insert().values(name=COORDINATOR_FACT, value=mine))
        elif found != mine:
            raise ForeignBooksError(
                f"{self.where} are those of coordinator {found[:12]}, not of {mine[:12]}",
                advice="name a database of its own with --books",
            )

    def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except SQLAlchemyError as error:  # it was lost already
                log.debug("a lost connection to %s could not be closed: %s", self.where, error)

    def _make_engine(self) -> Engine:
        arguments: dict[str, Any]
        if self.is_file:
            arguments = {"timeout": self._busy_s, "check_same_thread": False}
        else:
            arguments = server_arguments()
        try:
            engine = create_engine(self.url, poolclass=NullPool, connect_args=arguments)
        except ModuleNotFoundError as error:
            raise BooksUrlError(
                f"{self.where} need {error.name}, which is not installed",
                advice="pip install 'folkmoot[postgres]'",
            ) from error
        if self.is_file:
            event.listen(engine, "connect", _set_up_file)
            event.listen(engine, "begin", _begin_file)
        else:
            event.listen(engine, "connect", partial(set_up_server, self._busy_s))
        return engine

    def _named(self, error: SQLAlchemyError | OSError) -> FolkmootError:
        """What went wrong, in our words."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = " ".join(str(cause).split()) or type(cause).__name__
        code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
        if code == "SQLITE_FULL" or code == _FULL_STATE:
            return BooksFullError(
                f"there is no room for {self.where} ({said})", advice="make room on that disk"
            )
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or code in _DAMAGED_STATES:
            return self._damaged(said)
        if code == "SQLITE_ERROR":  # a wrong statement, which sqlite3 calls operational
            return BooksFaultError(f"{self.where} do not take what was to be written ({said})")
        lost = isinstance(error, DriverOperationalError | DriverInterfaceError | OSError)
        if lost or (isinstance(error, DBAPIError) and error.connection_invalidated) or _is_passing(code):
            return BooksUnavailableError(
                f"{self.where} cannot be used now ({said})",
                advice="see that the database runs, and that this user may write there",
            )
        return BooksFaultError(f"{self.where} do not take what was to be written ({said})")

    def _damaged(self, what: str) -> BooksDamagedError:
        return BooksDamagedError(
            f"{self.where} are damaged ({what})",
            advice="restore them from a copy; without them convicted nodes could come back, and what is owed is forgotten",
        )


def _is_passing(code: str) -> bool:
    """Whether an SQLSTATE says that the same may work another time: no room, shut down, a conflict, a lost connection."""
    return len(code) == 5 and code[:2] in ("08", "40", "53", "55", "57", "58")


def _make_file(path: Path) -> None:
    """Makes the file, for its owner alone; what SQLite puts beside it gets the same rights."""
    if path.exists():
        return
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_up_file(connection: sqlite3.Connection, _: object) -> None:
    # SQLite's own transactions, begun by `_begin_file`: the module's would end at the first CREATE TABLE.
    connection.isolation_level = None
    # Where the file system cannot do WAL, EXTRA makes the old journal as safe.
    for pragma in ("journal_mode = WAL", "synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_file(connection: Connection) -> None:
    # Whoever will write takes the lock first: two that read and then want to write would wait for each other.
    writes = connection.get_execution_options().get(_WRITER)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
