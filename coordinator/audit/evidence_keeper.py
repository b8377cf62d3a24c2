"""Where evidence goes, and what waits for a disk that does not take it.

Guarantees: no disk keeps a verdict from its consequences: what cannot be written is kept in memory, within `MOST_WAITING_BYTES` unless
one alone is larger, and tried again until it is on disk; only what is given up for want of memory, or lost when the process ends, is not,
and the log says so. A verdict is handed to the public log only once its evidence is on disk, and again until the log takes it. Any
thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ...trust.evidence import SUFFIX
from ...trust.log_entries import LogEntry
from ..ledger.public_log import EntryLog
from .private_files import private_folder, write_private

log = logging.getLogger(__name__)

EVIDENCE_FOLDER: Final = "evidence"
MOST_WAITING_BYTES: Final = 128 << 20
MOST_UNLOGGED: Final = 4096
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A verdict with its evidence; `content` is None once that is on disk."""

    path: Path
    content: bytes | None
    entry: LogEntry

    @property
    def size(self) -> int:
        return 0 if self.content is None else len(self.content)


class EvidenceKeeper:
    """The evidence of one coordinator.

    Attributes:
        folder: Where it lies.
    """

    def __init__(self, state: Path, entry_log: EntryLog | None = None) -> None:
        """Args: state is the coordinator's state folder; entry_log is told of verdicts."""
        self.folder = state / EVIDENCE_FOLDER
        self._entry_log = entry_log
        self._waiting: deque[_Kept] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._pause_s = FIRST_PAUSE_S
        self._thread: threading.Thread | None = None

    def keep(self, name: str, content: bytes, entry: LogEntry) -> Path:
        """Keeps evidence as a file of this name, at once if the disk takes it; says where it is, or will be.

        Args:
            name: Of the file, without its suffix; the same name again is the same evidence.
            content: The evidence.
            entry: What the public log is told.
        """
        kept = _Kept(self.folder / (name + SUFFIX), content, entry)
        if not self._try(kept, say=True):
            self._wait_with(kept)
        return kept.path

    def tell(self, path: Path, entry: LogEntry) -> None:
        """Has the public log told of a verdict whose evidence is on disk."""
        self._try(_Kept(path, None, entry), say=True)

    def close(self) -> None:
        """Tries all that waits once more, and ends the thread. Twice is harmless; what comes later is tried once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for kept in left:
            if not self._try(kept, say=False):
                log.error("evidence is lost, as the disk does not take it: %s", kept.path)

    @property
    def waiting(self) -> int:
        """Verdicts whose evidence, or entry in the public log, is not written yet."""
        with self._changed:
            return len(self._waiting)

    def _wait_with(self, kept: _Kept) -> None:
        with self._changed:
            held = sum(other.size for other in self._waiting)
            if self._closing:
                log.error("evidence is lost, as the coordinator ends: %s", kept.path)
                return
            if (held and held + kept.size > MOST_WAITING_BYTES) or len(self._waiting) >= MOST_UNLOGGED:
                log.error("evidence is given up, as too much waits for the disk already: %s", kept.path)
                return
            self._waiting.append(kept)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="folkmoot-evidence", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                self._changed.wait_for(lambda: self._closing, self._pause_s)
                if self._closing:
                    return
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
                tried = list(self._waiting)
            for kept in tried:
                if self._try(kept, say=False):
                    with self._changed:
                        self._waiting.remove(kept)

    def _try(self, kept: _Kept, *, say: bool) -> bool:
        """Whether evidence is on disk now, and its entry has been handed on."""
        if kept.content is not None:
            try:
                private_folder(self.folder)
                write_private(kept.path, kept.content)
            except OSError as error:
                if say:
                    log.error(
                        "evidence cannot be written to %s (%s) and is tried again; make room on the disk",
                        kept.path,
                        error.strerror,
                    )
                return False
        if self._entry_log is None:
            self._pause_s = FIRST_PAUSE_S
        else:
            appended = self._entry_log.append(kept.entry)
            appended.add_done_callback(partial(self._logged, kept, say=say))
        return True

    def _logged(self, kept: _Kept, appended: Future[int], *, say: bool) -> None:
        if appended.cancelled():
            return
        if (error := appended.exception()) is None:
            self._pause_s = FIRST_PAUSE_S
            return
        if say or self._closing:
            log.error("a verdict is not in the public log: %s", error)
        if not self._closing:
            self._wait_with(_Kept(kept.path, None, kept.entry))
