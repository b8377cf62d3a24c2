"""An expert's file while it grows, in whatever order its bytes come.

Guarantees: which bytes are there is known after any end of the process, but for the last `BLOCK_BYTES` at each place where
something was being written; it never says of a byte that it is there when it was not written. Nothing here says that the
bytes are right: only their SHA-256 can, once all are there.

Beside the file of the bytes lies its journal: for each stretch that was written, its start and its end, 8 bytes each, always
after the bytes themselves. A journal that was torn ends with its last whole record; one whose bytes are gone counts for nothing.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

from .. import disk
from ..disk import disk_errors
from .sources.spans import Span, Spans

log = logging.getLogger(__name__)

PARTIAL = ".partial"
JOURNAL = ".spans"
BLOCK_BYTES = 256 << 10
"""What is written is put on record at the latest after so many bytes."""

_RECORD = struct.Struct(">QQ")


def journal_of(partial: Path) -> Path:
    """The journal of a partial file."""
    return partial.with_name(partial.name.removesuffix(PARTIAL) + JOURNAL)


class Partial:
    """The file, from whatever an earlier try left of it; used by one at a time."""

    def __init__(self, path: Path, complete: Path, size: int) -> None:
        self._path = path
        self._journal = journal_of(path)
        self._complete = complete
        self._unsaid: Span | None = None
        """What was written at one place and is not yet in the journal."""
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 0)
            self._spans = self._recall(size)
        self.inherited = bool(self._spans.length)
        """Whether an earlier try left something."""

    def _recall(self, size: int) -> Spans:
        """What the journal says, of bytes that are there."""
        present = os.fstat(self._file.fileno()).st_size
        try:
            record = self._journal.read_bytes()
        except FileNotFoundError:
            record = b""
        whole = len(record) - len(record) % _RECORD.size
        written = [Span(*pair) for pair in _RECORD.iter_unpack(record[:whole])]
        if present > size or any(not span.start < span.end <= present for span in written):
            written = []
        self._recorded = bool(written)
        if not written:
            if record:
                self._journal.unlink(missing_ok=True)
            self._file.truncate(0)
        elif whole < len(record):
            os.truncate(self._journal, whole)
        return Spans(size, written)

    @property
    def length(self) -> int:
        """How many bytes are there."""
        return self._spans.length

    @property
    def whole(self) -> bool:
        """Whether all are."""
        return self._spans.complete

    def missing(self) -> tuple[Span, ...]:
        """What is not there yet, in order."""
        return self._spans.missing()

    def write(self, offset: int, data: bytes) -> None:
        """Writes bytes at their place, all of them.

        Raises:
            DiskFullError, DiskError: when they cannot be written; they do not count as there.
        """
        with disk_errors(self._path):
            os.lseek(self._file.fileno(), offset, os.SEEK_SET)
            disk.write_all(self._file.fileno(), data)
            written = Span(offset, offset + len(data))
            self._spans.add(written)
            if self._unsaid is not None and self._unsaid.end != written.start:
                self._put_on_record()
            self._unsaid = Span(self._unsaid.start if self._unsaid else written.start, written.end)
            if self._unsaid.length >= BLOCK_BYTES:
                self._put_on_record()

    def complete(self) -> None:
        """Gives the file the expert's name: all bytes are there, though not yet known to be right."""
        self._unsaid = None
        self._file.close()
        with disk_errors(self._path):
            self._path.replace(self._complete)
            self._forget()

    def discard(self) -> None:
        """Removes what was written.

        Raises:
            DiskError: when the disk fails.
        """
        self._unsaid = None
        self._file.close()
        with disk_errors(self._path):
            self._forget()
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keeps what was written for the next try; closing twice is harmless."""
        self._file.close()
        self._put_on_record()

    def _forget(self) -> None:
        if self._recorded:
            self._journal.unlink(missing_ok=True)
            self._recorded = False

    def _put_on_record(self) -> None:
        """Writes down what was written; where that fails, it is only fetched once more."""
        span, self._unsaid = self._unsaid, None
        if span is None:
            return
        self._recorded = True
        try:
            with self._journal.open("ab", buffering=0) as journal:
                if journal.write(_RECORD.pack(*span)) < _RECORD.size:
                    journal.truncate(journal.tell() - journal.tell() % _RECORD.size)
        except OSError as error:
            log.debug("%s is not kept: %s", self._journal, error)
