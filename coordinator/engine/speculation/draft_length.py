"""How many tokens of one sequence are worth guessing, judged by how its last guesses fared.

Guarantees: between 0 and the limit; one more after each guess that was right to its end, less by half of what was wrong
after any other (additive increase, multiplicative decrease); after misses down to 0 it rests, longer each time that a single
token tried after a rest is wrong again, and never for good.
"""

from __future__ import annotations

FIRST_LENGTH = 2
SHORTEST_REST = 4
LONGEST_REST = 64


class DraftLength:
    """Watches one sequence.

    Attributes:
        tokens: How many to guess now; 0 while it rests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rest = SHORTEST_REST
        self._resting = 0
        self.tokens = min(FIRST_LENGTH, most)

    def fared(self, proposed: int, accepted: int) -> None:
        """A step is over in which the first `accepted` of `proposed` tokens were right; nothing may have been proposed."""
        if self.tokens == 0:
            self._resting -= 1
            self.tokens = 1 if self._resting <= 0 else 0
        elif proposed > accepted:
            self.tokens = max(0, self.tokens - (proposed - accepted + 1) // 2)
            if self.tokens == 0:
                self._resting, self._rest = self._rest, min(2 * self._rest, LONGEST_REST)
        elif proposed:
            self._rest = SHORTEST_REST
            if proposed >= self.tokens:
                self.tokens = min(self.tokens + 1, self._most)
