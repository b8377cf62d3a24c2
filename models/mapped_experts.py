"""A prepared model's experts, mapped from its files.

Guarantees: experts are views over read-only mapped files, so they take page cache and no memory of their own; nothing is checked
until `check` is asked. May be called from many threads at once; an expert that was let go stays right for whoever still has it.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from pathlib import Path

from ..errors import ModelError
from ..ids import ExpertKey
from ..kernels.expert import Expert
from .prepared import PreparedModel


class ChangedExpertError(ModelError):
    """An expert's bytes are not those that the manifest names."""


class MappedExperts:
    """The experts of one prepared model."""

    def __init__(self, prepared: PreparedModel) -> None:
        self._prepared = prepared
        self._files: dict[Path, mmap.mmap] = {}
        self._experts: dict[ExpertKey, Expert] = {}
        self._lock = threading.Lock()

    def expert(self, key: ExpertKey) -> Expert:
        """An expert, ready to be computed with.

        Raises:
            KeyError: when the model has no such expert.
        """
        expert = self._experts.get(key)
        if expert is None:
            expert = Expert(self._prepared.manifest.spec_of(key), self._parts(key))
            self._experts[key] = expert
        return expert

    def check(self, key: ExpertKey) -> None:
        """Reads all bytes of an expert, which are in the page cache from then on.

        Raises:
            KeyError: when the model has no such expert.
            ChangedExpertError: when they are not those that the manifest names.
        """
        digest = hashlib.sha256()
        for part in self._parts(key):
            digest.update(part)
        if digest.hexdigest() != self._prepared.manifest.experts[key].sha256:
            raise ChangedExpertError(
                f"the bytes of {key} in {self._prepared.folder} are not those that the manifest names",
                advice="put the model's files back as they were, or prepare it again: folkmoot model prepare",
            )

    def let_go(self, key: ExpertKey) -> None:
        """Gives an expert's memory back to the system; asking for it again maps it anew."""
        self._experts.pop(key, None)
        if hasattr(mmap, "MADV_DONTNEED"):
            for path, offset, length in self._prepared.ranges(key):
                # Of a file that is only read, nothing is lost: a page that is looked at again comes back from the page cache.
                first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
                whole = (offset + length - first) // mmap.PAGESIZE * mmap.PAGESIZE
                if whole > 0:
                    self._mapped(path).madvise(mmap.MADV_DONTNEED, first, whole)

    def _parts(self, key: ExpertKey) -> list[memoryview]:
        return [
            memoryview(self._mapped(path))[offset : offset + length]
            for path, offset, length in self._prepared.ranges(key)
        ]

    def _mapped(self, path: Path) -> mmap.mmap:
        with self._lock:
            if path not in self._files:
                with path.open("rb") as stream:
                    self._files[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return self._files[path]
