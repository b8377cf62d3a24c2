"""Whether waiting sequences may start, given what is known of the experts' hosts.

Guarantees: closed while some expert has no host, and for a pause after each step that found none, so that a network which
flaps is not asked in a tight loop. Pure: the clock is an argument.
"""

from __future__ import annotations

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0


class CoverageGate:
    """Remembers the steps that failed in a row."""

    def __init__(self) -> None:
        self._failures = 0
        self._closed_until_s = float("-inf")

    def step_failed(self, now_s: float) -> None:
        """A step found no host for some expert."""
        self._closed_until_s = now_s + min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)

    def step_succeeded(self) -> bool:
        """A step ran to its end; returns whether this is the first after a failure."""
        recovered, self._failures, self._closed_until_s = self._failures > 0, 0, float("-inf")
        return recovered

    def is_open(self, now_s: float, covered: bool) -> bool:
        """Whether a waiting sequence may start now."""
        return covered and now_s >= self._closed_until_s
