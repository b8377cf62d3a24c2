"""What of audits everybody may know: sums, as they were when the last hour began.

Guarantees: nothing that is published says how an opening looked, and nothing is younger than its hour; so a node that opens what is
slightly wrong cannot see whether that was noticed, which would tell it of the secret projections. The exact counts are the
operator's alone (`private_counts.py`). Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from .counters import AuditOutcome, AuditTotals

PUBLISHED_EVERY_S: Final = 3600.0


class PublishedCounts:
    """Of one coordinator."""

    def __init__(
        self,
        totals: Callable[[], AuditTotals],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`totals` are the exact counts; the clocks are of the calendar, and one that nobody sets."""
        self._totals = totals
        self._clock = clock
        self._monotonic = monotonic
        self._taken_s = monotonic()
        self._document = self._now()

    def look(self) -> None:
        """Takes the sums when an hour is over: to be called more often, and not when somebody asks."""
        if self._monotonic() >= self._taken_s + PUBLISHED_EVERY_S:
            self._taken_s = self._monotonic()
            self._document = self._now()

    def document(self) -> dict[str, Any]:
        """What `/v1/network` says of audits."""
        return dict(self._document)

    def _now(self) -> dict[str, Any]:
        totals = self._totals()
        right = (AuditOutcome.PASSED, AuditOutcome.CLEARED)
        return {
            "as_of_unix_s": int(self._clock()),
            "results": totals.results,
            "right": sum(totals.outcomes.get(outcome.value, 0) for outcome in right),
            "wrong": totals.outcomes.get(AuditOutcome.WRONG.value, 0),
            "dropped": totals.dropped,
        }
