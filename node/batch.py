"""A few experts on their way from sources to the store.

Guarantees: each expert comes out once, mapped and found right, or as the error that says why not; no byte that is on disk is
asked for again, unless the expert's bytes prove wrong. A source is called a liar only for an expert of which it brought every
byte; where several sources had a part in a wrong expert, or an earlier run of the node, it is fetched again from one.
A source that fails, if by a fault of this program, is followed by the next; tries that bring nothing are bounded, and so is the time that is waited.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from ..amounts import format_bytes
from ..disk import DiskError, DiskFullError
from ..errors import FolkmootError, ModelError, UnavailableError
from ..ids import ExpertKey
from ..kernels.expert import Expert
from ..models.manifest import Manifest
from .partial import Partial
from .rate_limit import RateLimit
from .sources.standing import COOL_S, Choice, SourceOrder
from .sources.weight_source import (
    NotOfferedError,
    Piece,
    SourceBusyError,
    SourceError,
    SourceLiedError,
    SourceLostError,
    SourceSilentError,
    SourceSlowError,
    SourceUnfitError,
    Want,
    WeightSource,
)
from .store import DamagedExpertError, ExpertStore
from .tasks import in_thread
from .traffic import Traffic

log = logging.getLogger(__name__)

WRONG_DOWNLOADS = 2
"""Whole downloads with wrong bytes after which the last resort is not asked for an expert again."""
MIXED_DOWNLOADS = 4
"""Downloads with wrong bytes from several sources after which an expert is given up."""
BARREN_TRIES = 4
"""Tries in a row that bring not one byte after which the last resort is not asked for an expert again."""
BARREN_TRIES_OF_OTHERS = 2
"""The same for a source after which there are others."""
PATIENCE_S = 120.0
"""How long experts wait in all for sources that want to be left alone, when there is no other."""

Outcome = Expert | FolkmootError


class WrongBytesError(ModelError):
    """The source's bytes of an expert are not those that the manifest promises."""


@dataclass(frozen=True)
class Manners:
    """How sources are dealt with.

    Attributes:
        pause_s: The time between a failed try and the next.
        floor_bytes_per_s: A source that brings less, while there is another, is left alone; 0 lets every source be slow.
        window_s: Over how much waiting that is measured.
    """

    pause_s: float
    floor_bytes_per_s: int = 0
    window_s: float = 10.0


@dataclass
class Pace:
    """How fast a source brings bytes, over the time that it was waited for."""

    waited_s: float = 0.0
    brought_bytes: int = 0

    def is_slow(self, manners: Manners) -> bool:
        """Whether it was below the floor over a whole window; begins a new window after each."""
        if self.waited_s < manners.window_s:
            return False
        slow = self.brought_bytes < manners.floor_bytes_per_s * self.waited_s
        self.waited_s, self.brought_bytes = 0.0, 0
        return slow


@dataclass
class Growth:
    """An expert's file, and who had a part in what this process put there."""

    partial: Partial
    brought_by: set[str] = field(default_factory=set)


class Batch:
    """Experts of different bytes that are got together.

    Args:
        make_room: Awaited when the disk is full.
    """

    def __init__(
        self,
        keys: Sequence[ExpertKey],
        manifest: Manifest,
        store: ExpertStore,
        order: SourceOrder,
        manners: Manners,
        limit: RateLimit,
        traffic: Traffic,
        make_room: Callable[[], Awaitable[None]],
    ) -> None:
        self._missing = dict.fromkeys(keys)
        self._manifest = manifest
        self._store = store
        self._order = order
        self._manners = manners
        self._limit = limit
        self._traffic = traffic
        self._make_room = make_room
        self._growing: dict[ExpertKey, Growth] = {}
        self._given_up: set[tuple[str, ExpertKey]] = set()
        self._troubles: dict[bool, dict[ExpertKey, FolkmootError]] = {True: {}, False: {}}
        """What happened last, with the last resort and with others. The coordinator is told of the first: others are not its
        business, nor what this node calls them."""
        self._wrong: Counter[tuple[str, ExpertKey]] = Counter()
        self._barren: Counter[tuple[str, ExpertKey]] = Counter()
        self._paces: dict[str, Pace] = {}
        self._patience_s = PATIENCE_S

    async def run(self) -> AsyncGenerator[tuple[ExpertKey, Outcome], None]:
        """Each expert with what came of it, in the order in which that is known."""
        try:
            while self._missing:
                choice = self._order.choose(list(self._missing), self._given_up)
                if choice is not None:
                    async with aclosing(self._ask(choice)) as outcomes:
                        async for key, outcome in outcomes:
                            self._forget(key)
                            yield key, outcome
                    continue
                wait_s = self._order.soonest_s(list(self._missing), self._given_up)
                if wait_s > self._patience_s:
                    for key in list(self._missing):
                        self._forget(key)
                        yield key, self._trouble(key)
                self._patience_s -= wait_s
                if self._missing:
                    await asyncio.sleep(wait_s)
        finally:
            for key in list(self._growing):
                self._close(key)

    async def _ask(self, choice: Choice) -> AsyncGenerator[tuple[ExpertKey, Outcome], None]:
        """One call of a source, and what follows from how it ends."""
        source, keys = choice.source, choice.keys
        before = 0
        try:
            wants = []
            for key in keys:
                try:
                    growth = self._grow(key)
                except (DiskError, DiskFullError) as error:
                    yield key, error
                    continue
                before += growth.partial.length
                if growth.partial.whole:
                    if (outcome := await self._finished(key, source)) is not None:
                        yield key, outcome
                    continue
                wants.append(Want(key, growth.partial.missing()))
            if wants:
                async with aclosing(self._take(source, wants)) as outcomes:
                    async for pair in outcomes:
                        yield pair
            if any(key in self._growing for key in keys):
                raise SourceError(f"{source.name} has less of {keys[0]} than it should")
        except FolkmootError as error:
            progressed = any(key not in self._growing for key in keys) or before < sum(
                self._growing[key].partial.length for key in keys
            )
            await self._react(source, keys, error, progressed)

    async def _take(
        self, source: WeightSource, wants: Sequence[Want]
    ) -> AsyncGenerator[tuple[ExpertKey, Outcome], None]:
        """Writes what a source brings; tells of experts that are whole, or cannot be kept."""
        stream = source.fetch(self._manifest, wants)
        async with aclosing(stream):
            while (piece := await self._next(stream, source)) is not None:
                if piece.key not in self._growing:
                    continue  # it could not be kept
                count = len(piece.data)
                self._traffic.brought_bytes += count
                if source.remote:
                    self._traffic.fetched_bytes += count
                growth = self._growing[piece.key]
                try:
                    await self._write(growth.partial, piece)
                except (DiskError, DiskFullError) as error:
                    yield piece.key, error
                    continue
                self._traffic.unready_bytes += count
                growth.brought_by.add(source.name)
                if growth.partial.whole and (outcome := await self._finished(piece.key, source)) is not None:
                    yield piece.key, outcome
                if source.remote:
                    await self._limit.take(count)
                if not self._order.may_ask(source):
                    raise SourceLostError(f"{source.name} is left alone")

    async def _next(self, stream: AsyncGenerator[Piece, None], source: WeightSource) -> Piece | None:
        """The next piece; None at the end. A source that is too slow has none."""
        began_s = time.monotonic()
        try:
            with self._traffic.waiting(source.name):
                piece = await anext(stream)
        except StopAsyncIteration:
            return None
        except FolkmootError:
            raise
        except Exception as error:
            log.exception("%s fails as nobody foresaw", source.name)
            raise SourceUnfitError(f"it fails ({type(error).__name__}: {error})") from error
        pace = self._paces.setdefault(source.name, Pace())
        pace.waited_s += time.monotonic() - began_s
        pace.brought_bytes += len(piece.data)
        slow = pace.is_slow(self._manners) and not source.last_resort
        if slow and self._order.has_other(source, piece.key):
            raise SourceSlowError(f"it brings less than {format_bytes(self._manners.floor_bytes_per_s)}/s")
        return piece

    async def _write(self, partial: Partial, piece: Piece) -> None:
        try:
            await in_thread(partial.write, piece.offset, piece.data)
        except DiskFullError:
            await self._make_room()
            try:
                await in_thread(partial.write, piece.offset, piece.data)
            except DiskFullError:
                partial.discard()
                raise

    async def _finished(self, key: ExpertKey, source: WeightSource) -> Outcome | None:
        """What came of an expert whose bytes are all there; None when they are wrong and it is got again.

        Raises:
            SourceLiedError: when this source brought all of them, and is not the last resort.
        """
        growth, entry = self._growing[key], self._manifest.experts[key]
        alone = growth.brought_by == {source.name} and not growth.partial.inherited
        try:
            await in_thread(growth.partial.complete)
            expert = await in_thread(self._store.load, entry.sha256, self._manifest.spec_of(key))
        except DamagedExpertError as error:
            log.warning("%s: %s", key, error)
        except FolkmootError as error:
            return error
        else:
            return expert
        self._close(key)
        wrong = WrongBytesError(
            f"{key}: the source's bytes do not have the manifest's SHA-256", advice="tell the operator"
        )
        self._troubles[source.last_resort or not alone][key] = wrong
        if alone and not source.last_resort:
            raise SourceLiedError(f"its bytes of {key} do not have the manifest's SHA-256")
        whose = (source.name if alone else "", key)
        self._wrong[whose] += 1
        if not alone:
            return wrong if self._wrong[whose] == MIXED_DOWNLOADS else None
        if self._wrong[whose] == WRONG_DOWNLOADS:
            self._given_up.add(whose)
        return None

    async def _react(
        self, source: WeightSource, keys: Sequence[ExpertKey], error: FolkmootError, progressed: bool
    ) -> None:
        """What follows from a source's failure: another try, or another source."""
        for key in keys:
            self._troubles[source.last_resort][key] = error
        standings, manifest = self._order.standings, self._manifest
        match error:
            case NotOfferedError():
                self._give_up(source, keys)
                return
            case SourceLiedError():
                standings.leave_alone(manifest, source, error)
                self._discard_what_came_from(source)
            case SourceUnfitError():
                standings.leave_alone(manifest, source, error)
            case SourceBusyError():
                standings.leave_alone(manifest, source, error, error.wait_s)
            case SourceSlowError():
                standings.leave_alone(manifest, source, error, COOL_S)
            case SourceError() | UnavailableError():
                await self._try_again(source, keys, error, progressed)
                return
            case _:
                standings.leave_alone(manifest, source, error)
        if source.last_resort:
            self._give_up(source, keys)

    async def _try_again(
        self, source: WeightSource, keys: Sequence[ExpertKey], error: FolkmootError, progressed: bool
    ) -> None:
        """Pauses before the next try, unless there were too many that brought nothing."""
        if not self._order.may_ask(source):
            return
        barren = (source.name, keys[0])
        self._barren[barren] = 0 if progressed else self._barren[barren] + 1
        most = BARREN_TRIES if source.last_resort else BARREN_TRIES_OF_OTHERS
        silent = isinstance(error, SourceSilentError) and self._order.has_other(source, keys[0])
        if self._barren[barren] >= most or (silent and not source.last_resort):
            if source.last_resort:
                self._give_up(source, keys)
            else:
                self._order.standings.leave_alone(self._manifest, source, error, COOL_S)
            return
        growth = self._growing.get(keys[0])
        log.info("%s: %s; going on at byte %d", keys[0], error, growth.partial.length if growth else 0)
        self._paces.setdefault(source.name, Pace()).waited_s += self._manners.pause_s
        await asyncio.sleep(self._manners.pause_s)

    def _discard_what_came_from(self, source: WeightSource) -> None:
        for key, growth in list(self._growing.items()):
            if source.name in growth.brought_by:
                growth.partial.discard()
                self._close(key)

    def _trouble(self, key: ExpertKey) -> FolkmootError:
        """Why there is no way left to an expert."""
        found = self._troubles[True].get(key) or self._troubles[False].get(key)
        return found or SourceLostError("no source has it now")

    def _give_up(self, source: WeightSource, keys: Sequence[ExpertKey]) -> None:
        self._given_up.update((source.name, key) for key in keys)

    def _grow(self, key: ExpertKey) -> Growth:
        """The expert's file; opened here and not in a thread, where being cancelled would lose the open file."""
        if key not in self._growing:
            size = self._manifest.expert_bytes(key)
            self._growing[key] = Growth(self._store.partial(self._manifest.experts[key].sha256, size))
            self._traffic.unready_bytes += self._growing[key].partial.length
        return self._growing[key]

    def _forget(self, key: ExpertKey) -> None:
        self._close(key)
        del self._missing[key]

    def _close(self, key: ExpertKey) -> None:
        growth = self._growing.pop(key, None)
        if growth is not None:
            self._traffic.unready_bytes -= growth.partial.length
            growth.partial.close()
