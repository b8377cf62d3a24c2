"""Which sources are asked, in which order, and which are left alone: for how long, and why.

Guarantees: a source that lied about a model, or is unfit for it, is not asked for that model again while this process lives;
one that is slow, busy or silent is asked again after a while; the last resort is always asked. Why a source is left alone is
said once. Decisions follow from what was told and the clock alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from ...errors import FolkmootError
from ...ids import ExpertKey
from ...models.manifest import Manifest
from .weight_source import WeightSource

log = logging.getLogger(__name__)

COOL_S = 300.0
"""For how long a source is left alone that was slow, or brought nothing."""


@dataclass(frozen=True)
class Choice:
    """Whom to ask, and for what of that which is missing."""

    source: WeightSource
    keys: tuple[ExpertKey, ...]


class Standings:
    """What is known of sources, for all models, as long as the process lives."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._until: dict[tuple[bytes, str], float] = {}
        self._said: set[tuple[bytes, str, type[FolkmootError]]] = set()

    def leave_alone(
        self, manifest: Manifest, source: WeightSource, why: FolkmootError, wait_s: float = math.inf
    ) -> None:
        """Does without a source for this model, for ever or so many seconds; the last resort is only complained of."""
        whose, kind = (manifest.digest, source.name), type(why)
        level = logging.DEBUG if (*whose, kind) in self._said else logging.WARNING
        self._said.add((*whose, kind))
        if source.last_resort:
            log.log(level, "%s: %s", source.name, why)
            return
        how_long = (
            "not asked any more for this model" if wait_s == math.inf else f"left alone for {wait_s:.0f} s"
        )
        log.log(level, "%s is %s: %s", source.name, how_long, why)
        self._until[whose] = max(self._until.get(whose, -math.inf), self.clock() + wait_s)

    def rests_until(self, manifest: Manifest, source: WeightSource) -> float:
        """When a source may be asked, on the clock; in the past where it may now, infinite where never."""
        return self._until.get((manifest.digest, source.name), -math.inf)


class SourceOrder:
    """The sources of one model's experts, the first to be asked first."""

    def __init__(self, manifest: Manifest, sources: Sequence[WeightSource], standings: Standings) -> None:
        self._manifest = manifest
        self._sources = tuple(sources)
        self.standings = standings

    def choose(
        self, missing: Sequence[ExpertKey], given_up: Collection[tuple[str, ExpertKey]] = ()
    ) -> Choice | None:
        """The first source that may be asked now, and for which of the missing experts; None when there is none.

        Args:
            missing: In the order in which they are wanted; a source that does not join gets the first that it offers.
            given_up: Names of sources with experts that they are not to be asked for.
        """
        for source in self._sources:
            if not self.may_ask(source):
                continue
            keys = self._offered(source, missing, given_up)
            if keys:
                return Choice(source, keys if source.joins else keys[:1])
        return None

    def may_ask(self, source: WeightSource) -> bool:
        """Whether a source is not left alone now."""
        return self.standings.rests_until(self._manifest, source) <= self.standings.clock()

    def soonest_s(
        self, missing: Sequence[ExpertKey], given_up: Collection[tuple[str, ExpertKey]] = ()
    ) -> float:
        """In how many seconds a source that has something of it may be asked; infinite when never."""
        times = [
            self.standings.rests_until(self._manifest, source) - self.standings.clock()
            for source in self._sources
            if self._offered(source, missing, given_up)
        ]
        return max(min(times, default=math.inf), 0.0)

    def has_other(self, source: WeightSource, key: ExpertKey) -> bool:
        """Whether another source may be asked for an expert now."""
        return any(
            other is not source and self.may_ask(other) and other.offers(self._manifest, key)
            for other in self._sources
        )

    def joins_first(self, key: ExpertKey) -> bool:
        """Whether the source that would be asked for an expert now takes several at once."""
        choice = self.choose([key])
        return choice is not None and choice.source.joins

    def _offered(
        self,
        source: WeightSource,
        missing: Sequence[ExpertKey],
        given_up: Collection[tuple[str, ExpertKey]],
    ) -> tuple[ExpertKey, ...]:
        return tuple(
            key
            for key in missing
            if (source.name, key) not in given_up and source.offers(self._manifest, key)
        )
