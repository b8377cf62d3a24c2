"""Experts on the contributor's disk, by the SHA-256 of their bytes.

Guarantees: an expert leaves the store only in memory, after all of its bytes there were hashed and found right; a file that
does not hash right is removed; a file under an expert's name was once complete; a download that was torn goes on where it
stopped; what somebody reserved is never removed, and as long as what is reserved fits in the limit, the store does. Methods may be called from any thread, but not two at once for one digest.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import mmap
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..amounts import format_bytes
from ..disk import disk_errors
from ..errors import CapacityError, ModelError
from ..kernels.expert import Expert
from ..kernels.formats import ExpertSpec
from ..kernels.weight_memory import weight_memory, worth_huge_pages
from .partial import JOURNAL, PARTIAL, Partial, journal_of

log = logging.getLogger(__name__)

_PIECE_BYTES = 4 << 20


class NoMemoryError(CapacityError):
    """The system gives this process no memory for another expert."""


class DamagedExpertError(ModelError):
    """An expert's file does not hold the bytes that its name promises; it has been removed."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the store: the digest in its name, its size, and when it was last used."""

    path: Path
    digest: str
    size: int
    used_ns: int


class ExpertStore:
    """The store in one folder, of at most so many bytes. What computes may `prepare` an expert before anybody sees it."""

    def __init__(
        self, folder: Path, limit_bytes: int, prepare: Callable[[Expert], None] = lambda expert: None
    ) -> None:
        self._folder = folder
        self._prepare = prepare
        self._limit_bytes = limit_bytes
        self._reserved: dict[object, dict[str, int]] = {}
        self._changing = threading.Lock()

    def has(self, digest: str, size: int) -> bool:
        """Whether a file of the right name and size is there; `load` says whether it is right."""
        try:
            return self._path(digest).stat().st_size == size
        except OSError:
            return False

    def partial(self, digest: str, size: int) -> Partial:
        """Opens an expert's file to be written, where an earlier try stopped.

        Raises:
            DiskFullError, DiskError: when it cannot be made.
        """
        path = self._path(digest)
        return Partial(path.with_name(path.name + PARTIAL), path, size)

    def load(self, digest: str, spec: ExpertSpec) -> Expert:
        """Brings an expert into memory, hashes it there, and readies it for what computes.

        It is read into huge pages, from which it is computed a fifth faster; one that fills none, or for which no memory is
        free, is mapped from its file.

        Raises:
            DamagedExpertError: when the file is missing or has the wrong bytes; it is removed.
            NoMemoryError: when there is no memory for it, not even as a view of its file.
            DiskError: when the disk fails.
        """
        path = self._path(digest)
        with disk_errors(path):
            try:
                with path.open("rb", buffering=0) as file:
                    data = _brought_in(file, spec.expert_bytes)
                os.utime(path)
            except FileNotFoundError:
                raise DamagedExpertError(f"the expert file {path} is missing") from None
        if data is None or _sha256(data) != digest:
            with disk_errors(path):
                path.unlink(missing_ok=True)
            raise DamagedExpertError(f"the expert file {path} does not hold the bytes of its name")
        expert = Expert.load(spec, data)
        try:
            self._prepare(expert)
        except MemoryError as error:
            raise _no_memory() from error
        return expert

    def reserve(self, owner: object, wanted: Mapping[str, int]) -> None:
        """Keeps these experts for an owner from now on, instead of those that it reserved before, whether they are there or to
        come. Files that nobody reserved are removed, the longest unused first, until all that is there, and all that is
        reserved, fits in the limit together.

        Args:
            owner: Who keeps them.
            wanted: Bytes of each, by digest.

        Raises:
            DiskError: when the disk fails.
        """
        with self._changing:
            self._reserved[owner] = dict(wanted)
            reserved = {digest: size for sizes in self._reserved.values() for digest, size in sizes.items()}
            self._remove_down_to(self._limit_bytes - sum(reserved.values()), reserved)

    def release(self, owner: object) -> None:
        """Nothing is kept for this owner any more."""
        with self._changing:
            self._reserved.pop(owner, None)

    def clear(self) -> int:
        """Removes all files that nobody has reserved: the disk is full. Bytes that were removed.

        Raises:
            DiskError: when the disk fails.
        """
        with self._changing:
            return self._remove_down_to(0, {digest for sizes in self._reserved.values() for digest in sizes})

    def stored_bytes(self) -> int:
        """Bytes of all files now. Raises DiskError."""
        return sum(file.size for file in self._files())

    def _remove_down_to(self, limit: int, keep: Collection[str]) -> int:
        """Removes files but those to keep, the longest unused first, until they have no more bytes than the limit."""
        files = sorted(
            (file for file in self._files() if file.digest not in keep), key=lambda file: file.used_ns
        )
        total = sum(file.size for file in files)
        removed = 0
        for file in files:
            if total - removed <= limit:
                break
            with disk_errors(file.path):
                if file.path.name.endswith(PARTIAL):
                    journal_of(file.path).unlink(missing_ok=True)
                file.path.unlink(missing_ok=True)
            removed += file.size
        if removed:
            log.info("removed %s of experts that are not assigned, to make room", format_bytes(removed))
        return removed

    def _files(self) -> list[StoredFile]:
        files = []
        with disk_errors(self._folder):
            for path in self._folder.glob("??/*"):
                if path.name.endswith(JOURNAL):  # goes with the file that it is about
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:  # a download was finished, or given up, meanwhile
                    continue
                digest = path.name.removesuffix(PARTIAL)
                files.append(StoredFile(path, digest, status.st_size, status.st_mtime_ns))
        return files

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest


def _brought_in(file: FileIO, size: int) -> memoryview | None:
    """What the file holds, if it is of this size."""
    if not size or os.fstat(file.fileno()).st_size != size:
        return None
    if worth_huge_pages(size):
        try:
            memory = weight_memory(size)
        except MemoryError:
            log.info("no memory is free for huge pages: an expert stays mapped from its file")
        else:
            return memory if _read_whole(file, memory) else None
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise _no_memory() from error
    if hasattr(mmap, "MADV_WILLNEED"):
        try:
            mapped.madvise(mmap.MADV_WILLNEED)
        except OSError as error:
            log.debug("advice to read ahead: %s", error.strerror)
    return memoryview(mapped)


def _no_memory() -> NoMemoryError:
    return NoMemoryError(
        "the system has no memory, or no mapping, left for another expert",
        advice="lend less with --memory, or raise the limit (ulimit -v, vm.max_map_count)",
    )


def _read_whole(file: FileIO, memory: memoryview) -> bool:
    """Fills the memory; whether the file had so much."""
    done = 0
    while done < len(memory):
        count = file.readinto(memory[done : done + _PIECE_BYTES])
        if not count:
            return False
        done += count
    return True


def _sha256(data: memoryview) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data), _PIECE_BYTES):
        with data[start : start + _PIECE_BYTES] as part:
            digest.update(part)
    return digest.hexdigest()
