"""How often one link may change what is said of its node.

Guarantees: over any time a link has no more changes than `MOST_AT_ONCE`, one for each second, and one for each assignment that its
node was given: every change is a line of the log and a row of the books, which all nodes share. Event loop only.
"""

from __future__ import annotations

MOST_AT_ONCE = 120
PER_SECOND = 1.0


class Allowance:
    """What one link has left."""

    def __init__(self, now_s: float) -> None:
        self._left = float(MOST_AT_ONCE)
        self._at_s = now_s

    def grant(self) -> None:
        """The node was told something that it answers with a change."""
        self._left = min(self._left + 1, MOST_AT_ONCE)

    def take(self, now_s: float) -> bool:
        """Takes one change; whether there was one left."""
        self._left = min(self._left + PER_SECOND * (now_s - self._at_s), MOST_AT_ONCE)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
