"""The keeper: makes what a node holds follow what it was last assigned, and reports it.

Guarantees: experts held never exceed the limit; an expert that is no longer assigned leaves memory only after holdings
without it were sent, and stays on disk as long as the disk's limit allows; an expert is reported ready only once it can be
computed with; one that cannot be held is reported refused, with the reason, and stops nothing else; a new assignment
replaces the one before at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ..amounts import format_bytes
from ..disk import DiskError, DiskFullError
from ..errors import FolkmootError
from ..ids import ExpertKey
from ..node_states import NodeState
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import MAX_REASON
from .download import Downloader
from .download_progress import Progress
from .limits import fit
from .shelf import Shelf
from .spoken_state import SpokenState
from .store import NoMemoryError
from .tasks import ended, in_thread, uninterrupted

log = logging.getLogger(__name__)

DISK_FULL = "no room on the node's disk"
DISK_FAILS = "the node's disk fails"
NO_MEMORY = "the node's system gives it no more memory"
REASONS_SAID = 3
"""Reasons in one line of the log, those of most experts first."""


@dataclass(frozen=True)
class Limits:
    """What a keeper may take.

    Attributes:
        memory_bytes: Most bytes of experts in memory.
        disk_bytes: Most bytes of experts on disk.
        streams: Experts that are got at once.
        report_interval_s: The shortest time between two reports.
        progress_interval_s: The time between two progress lines.
    """

    memory_bytes: int
    disk_bytes: int
    streams: int
    report_interval_s: float
    progress_interval_s: float


@dataclass(frozen=True)
class Wanted:
    """An assignment: its epoch, and the experts in the coordinator's order."""

    epoch: int
    keys: tuple[ExpertKey, ...]


class Keeper:
    """Follows the assignments of one link.

    Args:
        report: Sends holdings, and returns when they have left.
        drop: Lets experts go from memory, once the frames that arrived before have been computed.
    """

    def __init__(
        self,
        shelf: Shelf,
        downloader: Downloader,
        limits: Limits,
        status: SpokenState,
        *,
        report: Callable[[link_pb2.Holdings], Awaitable[None]],
        drop: Callable[[frozenset[ExpertKey]], Coroutine[Any, Any, None]],
    ) -> None:
        self._shelf = shelf
        self._downloader = downloader
        self._manifest = downloader.manifest
        self._limits = limits
        self._status = status
        self._report = report
        self._drop = drop
        self._newest: Wanted | None = None
        self._changed = asyncio.Event()
        self._epoch = 0
        self._refused: dict[ExpertKey, str] = {}
        self._disk_is_full = self._memory_is_full = False
        self._faults_told: set[type[FolkmootError]] = set()

    def assign(self, assignment: link_pb2.Assignment) -> None:
        """Takes what should be held from now on."""
        keys = (ExpertKey(part.layer, expert) for part in assignment.experts for expert in part.experts)
        self._newest = Wanted(assignment.epoch, tuple(dict.fromkeys(keys)))
        self._changed.set()

    async def run(self) -> None:
        """Follows assignments for ever; begins with a report of what an earlier link left in memory, if anything."""
        if self._shelf.held:
            await self._report(self._holdings(self._shelf.held))
        wanted = await self._next()
        while True:
            following = asyncio.create_task(self._follow(wanted))
            newer = asyncio.create_task(self._next())
            try:
                await asyncio.wait({following, newer}, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    following.result()
                wanted = await newer
            finally:
                await ended(following, newer)

    async def _next(self) -> Wanted:
        while self._newest is None:
            self._changed.clear()
            await self._changed.wait()
        wanted, self._newest = self._newest, None
        return wanted

    async def _follow(self, wanted: Wanted) -> None:
        kept = self._choose(wanted)
        leaving = self._shelf.held.difference(kept)
        if leaving:
            await self._report(self._holdings(self._shelf.held - leaving))
            await uninterrupted(self._drop(leaving))
        held = self._shelf.held
        missing = [key for key in kept if key not in held]
        await self._reserve(kept, needed=bool(missing))
        progress = self._progress(kept, missing)
        if missing:
            await self._get(missing, progress)
        await self._report(self._holdings(self._shelf.held))
        if self._refused:
            most = Counter(self._refused.values()).most_common(REASONS_SAID)
            reasons = "; ".join(f"{reason} ({count})" for reason, count in most)
            log.warning("%d experts are refused: %s", len(self._refused), reasons)
        self._status.seems(NodeState.READY, progress.summary())

    def _choose(self, wanted: Wanted) -> tuple[ExpertKey, ...]:
        """What of an assignment is to be held; the rest is noted as refused."""
        self._epoch, self._disk_is_full, self._memory_is_full = wanted.epoch, False, False
        self._faults_told.clear()
        known = [key for key in wanted.keys if key in self._manifest.experts]
        sizes = {key: self._manifest.expert_bytes(key) for key in known}
        limit = min(self._limits.memory_bytes, self._limits.disk_bytes)
        chosen = fit(known, self._shelf.held, sizes, limit)
        too_much = f"over the limit of {format_bytes(limit)} of experts"
        self._refused = dict.fromkeys(wanted.keys, "the model has no such expert")
        self._refused |= dict.fromkeys(chosen.refused, too_much)
        for key in chosen.kept:
            del self._refused[key]
        return chosen.kept

    async def _reserve(self, kept: Collection[ExpertKey], *, needed: bool) -> None:
        """Keeps files of these experts, and makes room for those that are to come; a disk that fails matters if there are any."""
        wanted = {self._manifest.experts[key].sha256: self._manifest.expert_bytes(key) for key in kept}
        try:
            await in_thread(self._downloader.store.reserve, self._shelf, wanted)
        except DiskError as error:
            if needed:
                raise
            log.warning("what is not assigned any more stays on disk: %s", error)

    async def _get(self, missing: list[ExpertKey], progress: Progress) -> None:
        """Gets experts ready, those on disk first, while reports and progress lines go out."""
        stored = set(await in_thread(lambda: [key for key in missing if self._downloader.is_stored(key)]))
        absent = sum(self._manifest.expert_bytes(key) for key in missing if key not in stored)
        self._status.seems(
            NodeState.DOWNLOADING,
            f"{len(missing)} experts, {format_bytes(absent)} to fetch"
            if absent
            else f"{len(missing)} experts from disk",
        )
        jobs: dict[str, list[ExpertKey]] = {}
        for key in sorted(missing, key=lambda key: key not in stored):
            jobs.setdefault(self._manifest.experts[key].sha256, []).append(key)
        batches = self._downloader.batches([keys[0] for keys in jobs.values()], stored, self._limits.streams)
        queue = iter([[jobs[self._manifest.experts[key].sha256] for key in batch] for batch in batches])
        tasks = [asyncio.create_task(self._work(queue, progress)) for _ in range(self._limits.streams)]
        tellers = [asyncio.create_task(self._report_regularly()), asyncio.create_task(self._tell(progress))]
        try:
            await asyncio.gather(*tasks)
        finally:
            await ended(*tasks, *tellers)

    async def _work(self, queue: Iterator[list[list[ExpertKey]]], progress: Progress) -> None:
        for twins in queue:
            # Experts with equal bytes come one after another: when the first is there, the disk has the others.
            for keys in zip_longest(*twins):
                possible = [key for key in keys if key is not None and self._can_get(key)]
                async with aclosing(self._downloader.obtain(possible)) as outcomes:
                    async for key, outcome in outcomes:
                        if isinstance(outcome, FolkmootError):
                            self._refuse(key, outcome)
                            continue
                        self._shelf.add(key, outcome)
                        progress.ready_bytes += self._manifest.expert_bytes(key)
                        progress.ready_experts += 1

    def _can_get(self, key: ExpertKey) -> bool:
        """Whether there is room for an expert, as far as is known; where there is none it is refused."""
        if self._memory_is_full:
            self._refused[key] = NO_MEMORY
        elif self._disk_is_full and not self._downloader.is_stored(key):
            self._refused[key] = DISK_FULL
        else:
            return True
        return False

    def _refuse(self, key: ExpertKey, error: FolkmootError) -> None:
        """Notes why an expert cannot be held; the coordinator is not told of paths on the contributor's disk.

        Of one kind of fault, only the first of an assignment is told in full: others may follow by the thousand.
        """
        first = type(error) not in self._faults_told
        self._faults_told.add(type(error))
        log.log(logging.WARNING if first else logging.DEBUG, "%s cannot be held: %s", key, error)
        if isinstance(error, DiskFullError):
            self._disk_is_full = True
            self._refused[key] = DISK_FULL
        elif isinstance(error, NoMemoryError):
            self._memory_is_full = True
            self._refused[key] = NO_MEMORY
        else:
            self._refused[key] = DISK_FAILS if isinstance(error, DiskError) else error.message

    async def _report_regularly(self) -> None:
        said: frozenset[ExpertKey] = frozenset()
        while True:
            await asyncio.sleep(self._limits.report_interval_s)
            ready = self._shelf.held
            if ready != said:
                await self._report(self._holdings(ready))
                said = ready

    async def _tell(self, progress: Progress) -> None:
        while True:
            await asyncio.sleep(self._limits.progress_interval_s)
            self._status.say(progress.line())

    def _progress(self, kept: Collection[ExpertKey], missing: Collection[ExpertKey]) -> Progress:
        traffic, size = self._downloader.traffic, self._manifest.expert_bytes
        total = sum(map(size, kept))
        return Progress(
            total_bytes=total,
            total_experts=len(kept),
            traffic=traffic,
            ready_bytes=total - sum(map(size, missing)),
            ready_experts=len(kept) - len(missing),
        )

    def _reasons(self) -> str:
        return "; ".join(dict.fromkeys(self._refused.values()))[:MAX_REASON]

    def _holdings(self, ready: Iterable[ExpertKey]) -> link_pb2.Holdings:
        return link_pb2.Holdings(
            epoch=self._epoch,
            ready=_ranges(ready),
            refused=_ranges(self._refused),
            reason=self._reasons(),
            bytes_fetched=self._downloader.traffic.fetched_bytes,
            bytes_held=self._shelf.held_bytes,
        )


def _ranges(keys: Iterable[ExpertKey]) -> list[link_pb2.ExpertRange]:
    layers: dict[int, list[int]] = {}
    for key in sorted(keys):
        layers.setdefault(key.layer, []).append(key.expert)
    return [link_pb2.ExpertRange(layer=layer, experts=experts) for layer, experts in layers.items()]
