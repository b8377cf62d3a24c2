"""The SHA-256 of experts' canonical bytes, read where they lie.

Guarantees: memory stays within `THREADS` x `CHUNK_BYTES` whatever the size of a checkpoint; files are read in ascending
order of offset, so a disk that dislikes seeking is read once, front to back.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..manifest import ByteRange
from ..progress import Progress
from ..safetensors_header import CheckpointError

THREADS = 2
CHUNK_BYTES = 4 << 20


def sha256_of_ranges(
    files: Sequence[Path], experts: Sequence[Sequence[ByteRange]], progress: Progress
) -> list[str]:
    """The SHA-256, in hexadecimal, of each expert's ranges end to end.

    Args:
        files: What `ByteRange.file` is an index into.
        experts: The ranges of each expert in canonical order.
        progress: Told of each chunk.

    Raises:
        CheckpointError: a file ended before a range did.
    """
    progress.start("Hashing experts", sum(part.length for ranges in experts for part in ranges))
    try:
        with _opened(files) as descriptors, ThreadPoolExecutor(THREADS) as threads:
            work = _Hashing(files, descriptors, progress)
            order = sorted(range(len(experts)), key=lambda index: _place(experts[index]))
            pending = {index: threads.submit(work.digest, experts[index]) for index in order}
            try:
                return [pending[index].result() for index in range(len(experts))]
            except BaseException:
                work.stopped.set()
                threads.shutdown(cancel_futures=True)
                raise
    finally:
        progress.finish()


class _Hashing:
    """What the threads share: open files, whom to tell, and whether to go on."""

    def __init__(self, files: Sequence[Path], descriptors: Sequence[int], progress: Progress) -> None:
        self.stopped = threading.Event()
        self._files = files
        self._descriptors = descriptors
        self._progress = progress
        self._lock = threading.Lock()
        self._own = threading.local()

    def digest(self, ranges: Sequence[ByteRange]) -> str:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(bytearray(CHUNK_BYTES))
        buffer: memoryview = self._own.buffer
        state = hashlib.sha256()
        for part in ranges:
            done = 0
            while done < part.length and not self.stopped.is_set():
                view = buffer[: min(CHUNK_BYTES, part.length - done)]
                count = os.preadv(self._descriptors[part.file], [view], part.offset + done)
                if not count:
                    raise CheckpointError(
                        f"{self._files[part.file]} became shorter while it was read",
                        advice="prepare again when nothing else writes to it",
                    )
                state.update(view[:count])
                done += count
                with self._lock:
                    self._progress.advance(count)
        return state.hexdigest()


def _place(ranges: Sequence[ByteRange]) -> tuple[int, int]:
    return (ranges[0].file, ranges[0].offset)


@contextmanager
def _opened(files: Sequence[Path]) -> Iterator[list[int]]:
    descriptors: list[int] = []
    try:
        for file in files:
            descriptors.append(os.open(file, os.O_RDONLY))
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
