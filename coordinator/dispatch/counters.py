"""What all dispatches of a coordinator add up to.

Guarantees: counts only grow, and may be added to from any thread; each is exact.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Totals:
    """The counts at one moment.

    Attributes:
        frames, rows: That were sent.
        retries: Frames that were sent because another replica had failed.
        results_signed: Results that came with a signature.
        results_verified: Results whose signature was checked and found right.
        results_own, rows_own: What the coordinator computed itself, and its rows: nothing of it was sent or signed.
        rejected: Results that were thrown away, by reason.
        failed: Frames without an answer, by reason.
        hedges: Second frames, sent because a first took longer than is usual for its host.
        hedges_won: First frames whose second ones were answered before them.
        hedges_compared: First frames that were answered beside their second ones, and compared with them.
    """

    frames: int
    rows: int
    retries: int
    results_signed: int
    results_verified: int
    results_own: int
    rows_own: int
    rejected: dict[str, int]
    failed: dict[str, int]
    hedges: int = 0
    hedges_won: int = 0
    hedges_compared: int = 0

    @property
    def results_rejected(self) -> int:
        """Results that were thrown away, whatever the reason."""
        return sum(self.rejected.values())


class DispatchCounters:
    """Counts of one coordinator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames = self._rows = self._retries = self._signed = self._verified = 0
        self._own = self._own_rows = 0
        self._hedges = self._hedges_won = self._hedges_compared = 0
        self._rejected: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def sent(self, frames: int, rows: int, *, retries: int = 0) -> None:
        """Frames were sent; so many of them because another replica had failed."""
        with self._lock:
            self._frames += frames
            self._rows += rows
            self._retries += retries

    def verified(self) -> None:
        """A signed result was found right."""
        with self._lock:
            self._signed += 1
            self._verified += 1

    def own(self, rows: int) -> None:
        """The coordinator computed a part of a layer's answer itself."""
        with self._lock:
            self._own += 1
            self._own_rows += rows

    def hedged(self, frames: int, rows: int) -> None:
        """So many second frames were sent."""
        with self._lock:
            self._frames += frames
            self._rows += rows
            self._hedges += frames

    def hedge_won(self) -> None:
        """Second frames were answered before the first."""
        with self._lock:
            self._hedges_won += 1

    def hedge_compared(self) -> None:
        """A first and its second answers were handed on to be compared."""
        with self._lock:
            self._hedges_compared += 1

    def rejected(self, reason: str, *, signed: bool) -> None:
        """A result was thrown away."""
        with self._lock:
            self._signed += signed
            self._rejected[reason] += 1

    def failed(self, reason: str) -> None:
        """A frame has no answer."""
        with self._lock:
            self._failed[reason] += 1

    def totals(self) -> Totals:
        """All counts at one moment."""
        with self._lock:
            return Totals(
                frames=self._frames,
                rows=self._rows,
                retries=self._retries,
                results_signed=self._signed,
                results_verified=self._verified,
                results_own=self._own,
                rows_own=self._own_rows,
                rejected=dict(self._rejected),
                failed=dict(self._failed),
                hedges=self._hedges,
                hedges_won=self._hedges_won,
                hedges_compared=self._hedges_compared,
            )
