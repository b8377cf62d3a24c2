"""Getting experts: from disk if they are there, else from the sources, in their order.

Guarantees: what `obtain` gives out was hashed and found right; bytes that are already on disk are not fetched again, unless
they prove wrong; each expert that was asked for comes out once, as an expert or as the error that says why not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..errors import FolkmootError
from ..ids import ExpertKey
from ..models.manifest import Manifest
from .batch import Batch, Manners, Outcome
from .claims import Claims
from .rate_limit import RateLimit
from .sources.standing import SourceOrder
from .store import DamagedExpertError, ExpertStore
from .tasks import in_thread
from .traffic import Traffic

log = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20
"""Most bytes of experts that are got together."""
BATCH_EXPERTS = 16


@dataclass
class Downloader:
    """Gets experts of one manifest.

    Attributes:
        order: Whom to ask.
        manners: How to deal with them.
        limit: How many bytes a second may come over the network.
        claims: Who gets what, over all links of the node.
    """

    manifest: Manifest
    store: ExpertStore
    order: SourceOrder
    manners: Manners
    limit: RateLimit = field(default_factory=RateLimit)
    claims: Claims = field(default_factory=Claims)
    traffic: Traffic = field(default_factory=Traffic)
    _making_room: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def is_stored(self, key: ExpertKey) -> bool:
        """Whether the disk has the expert, though perhaps damaged."""
        return self.store.has(self.manifest.experts[key].sha256, self.manifest.expert_bytes(key))

    def batches(
        self, keys: Iterable[ExpertKey], stored: Collection[ExpertKey], streams: int
    ) -> list[tuple[ExpertKey, ...]]:
        """What is best got together: alone and in the order of asking what is stored, or whose source takes one at a time; else
        neighbours in the published files, in no more and no larger batches than so many streams can share.
        """
        alone: list[ExpertKey] = []
        together: list[ExpertKey] = []
        for key in keys:
            (alone if key in stored or not self.order.joins_first(key) else together).append(key)
        together.sort(key=self._place)
        most = min(max(-(-len(together) // streams), 1), BATCH_EXPERTS)
        batches: list[list[ExpertKey]] = []
        room = 0
        for key in together:
            size = self.manifest.expert_bytes(key)
            if not batches or len(batches[-1]) == most or size > room:
                batches.append([])
                room = BATCH_BYTES
            batches[-1].append(key)
            room -= size
        return [*((key,) for key in alone), *map(tuple, batches)]

    async def obtain(self, keys: Sequence[ExpertKey]) -> AsyncGenerator[tuple[ExpertKey, Outcome], None]:
        """Experts whose bytes differ, each mapped and checked, or as the error that keeps it from being held:

        WrongBytesError, or another error of the sources, when none of them brings it right; NoMemoryError, DiskFullError,
        DiskError when it cannot be kept here.
        """
        missing = []
        for key in keys:
            outcome = await self._stored(key)
            if outcome is None:
                missing.append(key)
            else:
                yield key, outcome
        if missing:
            async with self.claims.of([self.manifest.experts[key].sha256 for key in missing]):
                async with aclosing(self._fetched(missing)) as outcomes:
                    async for pair in outcomes:
                        yield pair

    async def _fetched(self, keys: Sequence[ExpertKey]) -> AsyncGenerator[tuple[ExpertKey, Outcome], None]:
        """What was not on disk, unless another link of the node has brought it meanwhile."""
        missing = []
        for key in keys:
            outcome = await self._stored(key)
            if outcome is None:
                missing.append(key)
            else:
                yield key, outcome
        batch = Batch(
            missing,
            self.manifest,
            self.store,
            self.order,
            self.manners,
            self.limit,
            self.traffic,
            self._make_room,
        )
        async with aclosing(batch.run()) as outcomes:
            async for pair in outcomes:
                yield pair

    async def _stored(self, key: ExpertKey) -> Outcome | None:
        """What the disk has of an expert; None when it has to be fetched."""
        if not self.is_stored(key):
            return None
        try:
            return await in_thread(
                self.store.load, self.manifest.experts[key].sha256, self.manifest.spec_of(key)
            )
        except DamagedExpertError as error:
            log.warning("%s: %s", key, error)
            return None
        except FolkmootError as error:
            return error

    async def _make_room(self) -> None:
        async with self._making_room:
            await in_thread(self.store.clear)

    def _place(self, key: ExpertKey) -> tuple[int, int]:
        return min((part.file, part.offset) for part in self.manifest.experts[key].ranges)
