"""What all audits of a coordinator add up to.

Guarantees: counts only grow, but for what waits, and may be added to from any thread; each is exact, and so for the operator alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from ..dispatch.challenge import Unopened


class AuditOutcome(StrEnum):
    """How an audit ended; the value is the metrics' label."""

    PASSED = "passed"
    CLEARED = "cleared"
    """Suspected, or not opened, and found right by recomputation."""
    WRONG = "wrong"
    """Found wrong by recomputation."""
    ABANDONED = "abandoned"
    """The coordinator could not finish it."""


@dataclass(frozen=True)
class AuditTotals:
    """The counts at one moment.

    Attributes:
        results: Verified results that were looked at.
        waiting: Results that are to be audited and wait for their turn.
        challenges: That were sent.
        suspected: Openings that did not look like an honest node's.
        dropped: Results that were passed over because too much was waiting.
        heard: Results that two unrelated nodes were asked about, because the weights were not at hand.
        disagreed: Second answers that differed from the first by more than honest rounding.
        outcomes: Audits that ended, by how.
        unopened: Challenges without an opening that counts, by why.
    """

    results: int
    waiting: int
    challenges: int
    suspected: int
    dropped: int
    outcomes: dict[str, int]
    unopened: dict[str, int]
    disagreed: int = 0
    heard: int = 0


class AuditCounters:
    """Counts of one coordinator."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results = self._waiting = self._challenges = self._suspected = self._dropped = 0
        self._disagreed = self._heard = 0
        self._outcomes: Counter[str] = Counter()
        self._unopened: Counter[str] = Counter()

    def looked_at(self) -> None:
        """One more result came up for choice."""
        with self._lock:
            self._results += 1

    def waiting(self, count: int) -> None:
        """So many results wait for their audit now."""
        with self._lock:
            self._waiting = count

    def challenged(self) -> None:
        """A challenge went out."""
        with self._lock:
            self._challenges += 1

    def suspected(self) -> None:
        """An opening did not look like an honest node's."""
        with self._lock:
            self._suspected += 1

    def dropped(self) -> None:
        """A result was passed over."""
        with self._lock:
            self._dropped += 1

    def disagreed(self) -> None:
        """A second answer differed from the first."""
        with self._lock:
            self._disagreed += 1

    def heard(self) -> None:
        """Two unrelated nodes were asked about a result."""
        with self._lock:
            self._heard += 1

    def ended(self, outcome: AuditOutcome) -> None:
        """An audit ended."""
        with self._lock:
            self._outcomes[outcome.value] += 1

    def unopened(self, why: Unopened) -> None:
        """A challenge has no opening that counts."""
        with self._lock:
            self._unopened[why.value] += 1

    def totals(self) -> AuditTotals:
        """All counts at one moment."""
        with self._lock:
            return AuditTotals(
                results=self._results,
                waiting=self._waiting,
                challenges=self._challenges,
                suspected=self._suspected,
                dropped=self._dropped,
                outcomes=dict(self._outcomes),
                unopened=dict(self._unopened),
                disagreed=self._disagreed,
                heard=self._heard,
            )
