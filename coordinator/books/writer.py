"""The thread that writes the books.

Guarantees: whoever changes the books never waits for a database; changes that come together are written in one transaction, those
of one `Group` never apart, unless it says that they may be; a future of `flush` is done once all that it waits for is durable. What
cannot be written stays, in memory, in its newest form, and is tried again until it can be; the log says how much waits and why. What the
database refuses keeps nothing else back: neither another group, nor, in a group whose changes may be parted, a change with another
key. `close` tries for a bounded time, and says what it could not write, even when the database never answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from ...errors import FolkmootError
from .database import Database
from .errors import BooksFaultError, BooksUnavailableError
from .staging import Group, Taken

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
SAY_EVERY_S: Final = 30.0
IDLE_S: Final = 2.0
"""How soon that is written for which nobody waits."""
DAY_S: Final = 86_400.0
CLOSE_WITHIN_S: Final = 10.0
SILENT_S: Final = 1.0
"""How much longer than that `close` waits for a database that does not answer."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    group: Group
    future: Future[None]
    once: bool
    key: Hashable | None


class BooksWriter:
    """Writes groups of changes to a database. Its methods may be called from any thread."""

    def __init__(self, database: Database, daily: Callable[[], None] = lambda: None) -> None:
        """`daily` is called once a day, in the thread that writes, when the books can be written; it raises nothing."""
        self._database = database
        self._daily = daily
        self._groups: list[Group] = []
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._kept: list[_Waiting] = []
        self._refused_again_s = 0.0
        self._refused_pause_s = FIRST_PAUSE_S
        self._awake = False
        self._closing = threading.Event()
        self._close_by_s = 0.0
        self._faults: dict[Group, FolkmootError] = {}
        self._said_s = 0.0
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name="folkmoot-books", daemon=True)

    def group(self, name: str, *, parted: bool = False) -> Group:
        """A new group, whose changes may be `parted` by their keys or not; before `start`."""
        group = Group(name, parted=parted)
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

    def flush(self, group: Group, *, once: bool = False, key: Hashable | None = None) -> Future[None]:
        """Done when all that the group has now is durable, however long that takes.

        Args:
            group: What is waited for; all else is written along with it.
            once: Fail with the reason when it cannot be written at once. It is tried again all the same.
            key: Wait for the changes with this key alone; with `once`, what is refused of these is forgotten.
        """
        future: Future[None] = Future()
        with self._changed:
            if self._closing.is_set() and not self._thread.is_alive():
                future.set_exception(BooksUnavailableError("the books are closed"))
            else:
                self._waiting.append(_Waiting(group, future, once, key))
                self._changed.notify_all()
        return future

    def wake(self) -> None:
        """Has what waits written soon. Waits for nothing, and nothing is kept for it."""
        with self._changed:
            self._awake = True
            self._changed.notify_all()

    def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Writes what waits, for hardly longer than this, and ends the thread. Twice is harmless."""
        with self._changed:
            if self._closing.is_set() or not self._thread.is_alive():
                return
            self._close_by_s = time.monotonic() + within_s
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(within_s + SILENT_S)
        if self._thread.is_alive():  # a daemon: it keeps no process from ending
            log.error("%s do not answer; they are left as they are", self._database.where)
        with self._changed:
            left, self._waiting, self._kept = self._kept + self._waiting, [], []
        for one in left:
            _tell(one.future, BooksUnavailableError("the books are closed"))
        if self.waiting:
            log.error("these are lost, as they could not be written to the books: %s", self._described())

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        daily_s = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._awake or self._closing.is_set(), IDLE_S)
                waiting = self._kept + self._waiting
                # They stay until they are told: `close` may come while the database does not answer.
                self._waiting, self._kept, self._awake = [], waiting, False
            away = self._write_all(waiting) if waiting or self.waiting else None
            if away is None:
                pause_s = FIRST_PAUSE_S
            if self._closing.is_set():
                done = away is None and not (self._waiting or self._kept or self._is_refused())
                if done or time.monotonic() >= self._close_by_s:
                    return
                if not self._waiting:
                    time.sleep(FIRST_PAUSE_S)
            elif away is None and time.monotonic() >= daily_s + DAY_S:
                daily_s = time.monotonic()
                self._daily()
            elif away is not None:
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _is_refused(self) -> bool:
        return any(group.refused for group in self._groups)

    def _write_all(self, waiting: list[_Waiting]) -> FolkmootError | None:
        """Writes all that there is; returns why nothing can be written now. What was refused is tried again at growing intervals."""
        again = time.monotonic() >= self._refused_again_s or self._closing.is_set()
        if again:
            for group in self._groups:
                group.refused.clear()
        taken = [group.take() for group in self._groups]
        away = self._written(taken)
        if refused := isinstance(away, BooksFaultError):
            away = None
            for one in taken:
                away = away or self._written_in_parts(one)
        self._settle(waiting, away)
        if again or refused:
            self._pace_refused(again)
        if away is not None or refused or not self._is_refused():
            self._say(away or next((why for group in self._groups if (why := group.refusal(None))), None))
        return away

    def _written_in_parts(self, taken: Taken) -> FolkmootError | None:
        """Writes what is not refused; returns why nothing can be written now."""
        fault = self._written([taken])
        if not isinstance(fault, BooksFaultError):
            return fault
        if halves := taken.halves():
            return self._written_in_parts(halves[0]) or self._written_in_parts(halves[1])
        for key in taken.keys() if taken.group.parted else (None,):
            taken.group.refused[key] = (taken, fault)
        return None

    def _settle(self, waiting: list[_Waiting], away: FolkmootError | None) -> None:
        """Tells those that waited; who waits for longer than once goes on waiting."""
        kept = []
        self._faults = {
            group: fault for group in self._groups if (fault := away or group.refused.get(None, (0, None))[1])
        }
        for one in waiting:
            fault = away or one.group.refusal(one.key)
            if fault is not None and not one.once:
                kept.append(one)
            else:
                _tell(one.future, fault)
        for one in waiting:
            # Who asked was told no, and nobody else waits: else those who ask for the impossible would fill the memory.
            if one.once and one.key in one.group.refused and one.group.parted:
                one.group.refused.pop(one.key)[0].forget()
        with self._changed:
            self._kept = kept

    def _pace_refused(self, again: bool) -> None:
        if not self._is_refused():
            self._refused_again_s, self._refused_pause_s = 0.0, FIRST_PAUSE_S
        elif again:
            self._refused_again_s = time.monotonic() + self._refused_pause_s
            self._refused_pause_s = min(2 * self._refused_pause_s, LONGEST_PAUSE_S)

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


def _tell(future: Future[None], fault: FolkmootError | None) -> None:
    """Ends a wait; one that has ended already, by `close` or by whoever waited, is left."""
    with suppress(InvalidStateError):
        if fault is None:
            future.set_result(None)
        else:
            future.set_exception(fault)
