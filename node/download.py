"""Getting one expert: from disk if it is there, else from the source, through any number of torn streams.

Guarantees: what `obtain` returns was hashed and found right; bytes that are already on disk are not fetched again, unless
they prove wrong; a source that brings nothing, or wrong bytes, is tried a bounded number of times and then named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass, field

from ..disk import DiskFullError
from ..errors import ModelError, UnavailableError
from ..ids import ExpertKey
from ..kernels.expert import Expert
from ..models.manifest import Manifest
from .source import ExpertSource, SourceError
from .store import DamagedExpertError, ExpertStore, Partial
from .tasks import in_thread

log = logging.getLogger(__name__)

WRONG_DOWNLOADS = 2
"""Whole downloads with wrong bytes after which an expert is given up."""
BARREN_TRIES = 4
"""Tries in a row that bring not one byte after which an expert is given up."""


class WrongBytesError(ModelError):
    """The source's bytes of an expert are not those that the manifest promises."""


@dataclass
class Traffic:
    """Bytes that were fetched since the link was attached."""

    fetched_bytes: int = 0


@dataclass
class Downloader:
    """Gets experts of one manifest.

    Attributes:
        pause_s: The time between a failed try and the next.
        keep: Digests that are not to be removed when the disk is full.
    """

    manifest: Manifest
    store: ExpertStore
    source: ExpertSource
    pause_s: float
    traffic: Traffic = field(default_factory=Traffic)
    keep: Collection[str] = frozenset()
    _making_room: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def is_stored(self, key: ExpertKey) -> bool:
        """Whether the disk has the expert, though perhaps damaged."""
        return self.store.has(self.manifest.experts[key].sha256, self.manifest.expert_bytes(key))

    async def obtain(self, key: ExpertKey) -> Expert:
        """The expert, mapped and checked.

        Raises:
            WrongBytesError, SourceError: when the source does not have it right.
            UnavailableError: when the source does not bring it.
            DiskFullError, DiskError: when it cannot be kept.
        """
        digest, spec = self.manifest.experts[key].sha256, self.manifest.spec_of(key)
        wrong = 0
        while wrong < WRONG_DOWNLOADS:
            downloaded = not self.is_stored(key)
            if downloaded:
                await self._download(key)
            try:
                return await in_thread(self.store.load, digest, spec)
            except DamagedExpertError as error:
                log.warning("%s: %s", key, error)
                wrong += downloaded
        raise WrongBytesError(
            f"{key}: the source's bytes do not have the manifest's SHA-256", advice="tell the operator"
        )

    async def _download(self, key: ExpertKey) -> None:
        digest, size = self.manifest.experts[key].sha256, self.manifest.expert_bytes(key)
        # Opened here and not in a thread, where being cancelled would lose the open file.
        partial = self.store.partial(digest, size)
        try:
            barren = 0
            while partial.length < size:
                before = partial.length
                try:
                    await self._continue(key, partial, size)
                    trouble: UnavailableError | SourceError = SourceError(
                        f"the source has less of {key} than it should"
                    )
                except (UnavailableError, SourceError) as error:
                    trouble = error
                if partial.length == size:
                    break
                barren = 0 if partial.length > before else barren + 1
                if barren == BARREN_TRIES:
                    raise trouble
                log.info("%s: %s; going on at byte %d", key, trouble, partial.length)
                await asyncio.sleep(self.pause_s)
            await in_thread(partial.complete)
        finally:
            partial.close()

    async def _continue(self, key: ExpertKey, partial: Partial, size: int) -> None:
        """Appends what one stream brings."""
        stream = self.source.expert(self.manifest.digest, key, partial.length, size)
        async with aclosing(stream):
            async for data in stream:
                await self._append(partial, data)
                self.traffic.fetched_bytes += len(data)

    async def _append(self, partial: Partial, data: bytes) -> None:
        try:
            await in_thread(partial.write, partial.length, data)
        except DiskFullError:
            async with self._making_room:
                await in_thread(self.store.make_room, len(data), 0, self.keep)
                try:
                    await in_thread(partial.write, partial.length, data)
                except DiskFullError:
                    partial.discard()
                    raise
