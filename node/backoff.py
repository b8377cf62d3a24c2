"""How long to wait before the next try.

Guarantees: pauses double from the first to the cap, each lowered by a random part of at most half, so that many nodes that
lost one coordinator do not come back in the same instant; there is always a next pause.
"""

from __future__ import annotations

import random


class Backoff:
    """The pauses of one thing that is tried again and again."""

    def __init__(self, first_s: float, cap_s: float, random_generator: random.Random) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._random = random_generator
        self._next_s = first_s

    def pause_s(self) -> float:
        """The next pause, between half and all of the current step."""
        step, self._next_s = min(self._next_s, self._cap_s), min(self._next_s * 2, self._cap_s)
        return step * self._random.uniform(0.5, 1.0)

    def lasted(self, time_s: float) -> None:
        """What was tried worked, for so long: when that is longer than the next pause, pauses start over."""
        if time_s > self._next_s:
            self._next_s = self._first_s
