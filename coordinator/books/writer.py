"""The thread that writes the books.

Guarantees: whoever changes the books never waits for a database; changes that come together are written in one transaction, those
of one `Group` never apart; a future of `flush` is done once all that its group had before is durable. What cannot be written stays,
in memory, in its newest form, and is tried again until it can be; the log says how much waits and why. `close` tries for a
bounded time, and says what it could not write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection

from ...errors import FolkmootError
from .database import Database
from .errors import BooksFaultError, BooksUnavailableError

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
SAY_EVERY_S: Final = 30.0
IDLE_S: Final = 2.0
"""How soon that is written for which nobody waits."""
CLOSE_WITHIN_S: Final = 10.0

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Staged(Generic[K, V]):
    """Changes of one kind that are not written yet: the newest by key. Written in the order in which keys first came."""

    def __init__(
        self,
        lock: threading.RLock,
        write: Callable[[Connection, dict[K, V]], None],
        written: Callable[[dict[K, V]], None] | None = None,
        most: int | None = None,
    ) -> None:
        self._lock = lock
        self._write = write
        self._written = written
        self._most = most
        self._changes: dict[K, V] = {}
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._changes)

    def get(self, key: K) -> V | None:
        """What is to be written for a key."""
        with self._lock:
            return self._changes.get(key)

    def put(self, key: K, value: V) -> None:
        """Changes something. Beyond `most` the oldest is forgotten, and counted."""
        with self._lock:
            self._changes[key] = value
            if self._most is not None and len(self._changes) > self._most:
                del self._changes[next(iter(self._changes))]
                self.forgotten += 1

    def take(self) -> dict[K, V]:
        """All that is to be written; it stays until `settle`."""
        return dict(self._changes)

    def write(self, connection: Connection, taken: dict[K, V]) -> None:
        """Writes what was taken."""
        if taken:
            self._write(connection, taken)

    def settle(self, taken: dict[K, V]) -> None:
        """What was taken is durable now."""
        for key, value in taken.items():
            if self._changes.get(key) is value:
                del self._changes[key]
        if taken and self._written is not None:
            self._written(taken)


class Group:
    """Changes that belong together: under `lock`, several can be made that no transaction parts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._kinds: list[Staged[Any, Any]] = []

    def staged(
        self,
        write: Callable[[Connection, dict[K, V]], None],
        written: Callable[[dict[K, V]], None] | None = None,
        most: int | None = None,
    ) -> Staged[K, V]:
        """One more kind of changes, written after those before it."""
        kind = Staged(self.lock, write, written, most)
        self._kinds.append(kind)
        return kind

    @property
    def waiting(self) -> int:
        """Changes that are not written yet."""
        return sum(len(kind) for kind in self._kinds)

    def take(self) -> Taken:
        """All that is to be written, as it is at one moment."""
        with self.lock:
            return Taken(self, [(kind, kind.take()) for kind in self._kinds])


@dataclass(frozen=True)
class Taken:
    """What one transaction writes of a group."""

    group: Group
    changes: list[tuple[Staged[Any, Any], dict[Any, Any]]]

    def write(self, connection: Connection) -> None:
        """Writes it."""
        for kind, taken in self.changes:
            kind.write(connection, taken)

    def settle(self) -> None:
        """It is durable."""
        with self.group.lock:
            for kind, taken in self.changes:
                kind.settle(taken)


@dataclass(frozen=True, slots=True)
class _Waiting:
    group: Group
    future: Future[None]
    once: bool


class BooksWriter:
    """Writes groups of changes to a database. Its methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._groups: list[Group] = []
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._closing = threading.Event()
        self._close_by_s = 0.0
        self._faults: dict[Group, FolkmootError] = {}
        self._said_s = 0.0
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="folkmoot-books", daemon=True)

    def group(self, name: str) -> Group:
        """A new group; before `start`."""
        group = Group(name)
        self._groups.append(group)
        return group

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def fault(self, group: Group) -> FolkmootError | None:
        """Why a group could not be written the last time it was tried; None when it could."""
        return self._faults.get(group)

    @property
    def waiting(self) -> int:
        """Changes that are not written yet."""
        return sum(group.waiting for group in self._groups)

    def flush(self, group: Group, *, once: bool = False) -> Future[None]:
        """Done when all that the group has now is durable, however long that takes.

        Args:
            group: What is waited for; all else is written along with it.
            once: Fail with the reason when it cannot be written at once. It is tried again all the same.
        """
        future: Future[None] = Future()
        with self._changed:
            if self._closing.is_set() and not self._thread.is_alive():
                future.set_exception(BooksUnavailableError("the books are closed"))
            else:
                self._waiting.append(_Waiting(group, future, once))
                self._changed.notify_all()
        return future

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Writes what waits, for so long at most, and ends the thread. Twice is harmless."""
        with self._changed:
            if self._closing.is_set() or not self._thread.is_alive():
                return
            self._close_by_s = time.monotonic() + within_s
            self._closing.set()
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            left, self._waiting = self._waiting, []
        for one in left:
            one.future.set_exception(BooksUnavailableError("the books are closed"))
        if self.waiting:
            log.error("these are lost, as they could not be written to the books: %s", self._described())

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing.is_set(), IDLE_S)
                waiting, self._waiting = self._waiting, []
            fault = self._write_all(waiting) if waiting or self.waiting else None
            closing = self._closing.is_set()
            if fault is None:
                pause_s = FIRST_PAUSE_S
                if closing and not self._waiting:
                    return
            elif closing and time.monotonic() >= self._close_by_s:
                return
            elif closing:
                time.sleep(FIRST_PAUSE_S)
            else:
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _write_all(self, waiting: list[_Waiting]) -> FolkmootError | None:
        """Writes all that there is; on a fault, whoever waits goes on waiting but for those that wait once."""
        taken = [group.take() for group in self._groups]
        fault = self._written(taken)
        failed: set[Group] = set()
        if isinstance(fault, BooksFaultError) and len(taken) > 1:
            # One that is refused must not keep back the others.
            failed = {one.group for one in taken if self._written([one]) is not None}
        elif fault is not None:
            failed = set(self._groups)
        self._faults = {} if fault is None else dict.fromkeys(failed, fault)
        for one in waiting:
            if one.group not in failed:
                if one.future.set_running_or_notify_cancel():
                    one.future.set_result(None)
            elif one.once and fault is not None and one.future.set_running_or_notify_cancel():
                one.future.set_exception(fault)
        with self._changed:
            self._waiting[:0] = [one for one in waiting if one.group in failed and not one.once]
        self._say(fault)
        return fault

    def _written(self, taken: list[Taken]) -> FolkmootError | None:
        def write(connection: Connection) -> None:
            for one in taken:
                one.write(connection)

        try:
            self._database.write(write)
        except FolkmootError as error:
            return error
        except Exception as error:  # what nobody would ever write again must not end the thread, either
            log.exception("a fault kept the books from being written")
            return BooksFaultError(f"{self._database.where} cannot be written ({error!r})")
        for one in taken:
            one.settle()
        return None

    def _say(self, fault: FolkmootError | None) -> None:
        now_s = time.monotonic()
        if fault is None:
            if self._said_s:
                log.warning("%s are written again", self._database.where)
            self._said_s = 0.0
            return
        self.failures += 1
        if not self._said_s or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            log.error("%s; not recorded yet, and tried again: %s", fault, self._described())

    def _described(self) -> str:
        return ", ".join(f"{group.waiting} of {group.name}" for group in self._groups if group.waiting)
