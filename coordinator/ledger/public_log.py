"""The public log as the rest of the coordinator sees it: `append`, from any thread, without waiting.

Guarantees: an entry's future gives its index once the entry is on the disk for good, or the error that kept it from there;
entries that come together share one checkpoint; `close` first writes what was taken. Entries of one thread keep their
order.
"""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Protocol

from ...errors import CapacityError, FolkmootError, UnavailableError
from ...trust.keys import Identity
from ...trust.log_entries import LogEntry
from .log_store import MAX_BATCH, LogStore

log = logging.getLogger(__name__)

LOG_FOLDER: Final = "log"
MOST_WAITING: Final = 1 << 14


class LogBusyError(CapacityError):
    """Entries come faster than the disk takes them."""


class LogClosedError(UnavailableError):
    """The coordinator stops."""


class EntryLog(Protocol):
    """Whatever entries can be handed to."""

    def append(self, entry: LogEntry) -> Future[int]:
        """Takes an entry, without waiting; the future gives its index once it is there to stay."""
        ...


class PublicLog:
    """One coordinator's log, and the thread that writes it."""

    def __init__(self, state: Path, identity: Identity) -> None:
        """Opens the log in the coordinator's state folder.

        Raises:
            LogInUseError: when another process writes it.
            LogDamagedError: when it is not as it was signed.
            LogNotWrittenError: when the disk takes nothing.
        """
        self._store = LogStore(state / LOG_FOLDER, identity)
        self._waiting: queue.Queue[tuple[bytes, Future[int]] | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="folkmoot-log", daemon=True)
        self._thread.start()

    def append(self, entry: LogEntry) -> Future[int]:
        """Takes an entry; any thread. The future fails with a FolkmootError when the entry cannot be written."""
        future: Future[int] = Future()
        with self._lock:
            try:
                if self._closed:
                    raise LogClosedError("the public log is closed")
                self._waiting.put_nowait((entry.encode(), future))
            except queue.Full:
                future.set_exception(
                    LogBusyError(
                        f"{MOST_WAITING} entries wait to be written to the public log", advice="try again"
                    )
                )
            except FolkmootError as error:
                future.set_exception(error)
        return future

    def read(self, path: str) -> bytes | None:
        """What the log serves at a path; any thread. See `LogStore.read`."""
        return self._store.read(path)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return self._store.size

    def close(self) -> None:
        """Writes what waits, and lets others write. Twice is harmless."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._waiting.put(None)
        self._thread.join()
        self._store.close()

    def _run(self) -> None:
        going = True
        while going:
            batch = [self._waiting.get()]
            while len(batch) < MAX_BATCH and batch[-1] is not None:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            going = batch[-1] is not None
            taken = [waiting for waiting in batch if waiting is not None]
            taken = [(data, future) for data, future in taken if future.set_running_or_notify_cancel()]
            if taken:
                self._write(taken)

    def _write(self, batch: list[tuple[bytes, Future[int]]]) -> None:
        try:
            first = self._store.append([data for data, _ in batch])
        except Exception as error:
            log.exception("%d entries were not written to the public log", len(batch))
            for _, future in batch:
                future.set_exception(error)
            return
        for number, (_, future) in enumerate(batch):
            future.set_result(first + number)
