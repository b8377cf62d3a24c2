"""The line of the log that says how much of the model has hosts.

Guarantees: it is said at once when coverage becomes or stops being complete, and otherwise at most every few seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..dispatch.directory import Coverage

log = logging.getLogger(__name__)

EVERY_S = 2.0


class CoverageLog:
    """Says coverage when it has changed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told, self._told_at_s = -1, 0.0

    def tell(self, coverage: Coverage) -> None:
        """Says it if it is time to."""
        now_s = self._clock()
        turned = (self._told == coverage.experts) != coverage.complete
        if coverage.covered == self._told or not (turned or now_s - self._told_at_s >= EVERY_S):
            return
        self._told, self._told_at_s = coverage.covered, now_s
        log.info(
            "coverage %.0f %%: %d of %d experts have a host, %d have two",
            100 * coverage.fraction,
            coverage.covered,
            coverage.experts,
            coverage.replicated,
        )
