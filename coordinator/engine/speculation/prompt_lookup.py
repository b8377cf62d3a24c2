"""Guesses from what the sequence itself has said before.

Guarantees: a guess is what followed the latest earlier occurrence of the sequence's last tokens: of the last 3, or else of the
last 2; where that reaches the end of what is known it goes on in the same period; each token is looked at once, so that the
cost of a guess does not grow with the context.

Source: LLMA (Yang et al., "Inference with Reference: Lossless Acceleration of Large Language Models", arXiv 2304.04487) copies
from a reference, A. Saxena's prompt lookup decoding (2023) from the prompt; here prompt and answer are one text.
"""

from __future__ import annotations

MATCHES = (3, 2)
"""Lengths that are looked for, in this order. What followed a single token is right about one time in five, and its misses
would shorten the guesses that are worth trying."""


class PromptLookup:
    """An index of one growing sequence."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens` is the sequence's own list, which the caller appends to; an index of a list that was shortened is of no use."""
        self._tokens = tokens
        # Some tokens in a row -> the place after their latest occurrence.
        self._places: dict[tuple[int, ...], int] = {}
        self._learned = 1

    def learn(self, end: int) -> None:
        """Indexes the first `end` tokens, so that a long prompt need not be indexed all at once."""
        tokens, places = self._tokens, self._places
        for place in range(self._learned, end):
            for length in MATCHES:
                if length <= place:
                    places[tuple(tokens[place - length : place])] = place
        self._learned = max(self._learned, end)

    def propose(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens, or none when the last ones never occurred before."""
        tokens = self._tokens
        self.learn(len(tokens))
        for length in MATCHES:
            place = self._places.get(tuple(tokens[-length:]))
            if place is not None:
                period = len(tokens) - place
                return tuple(tokens[place + step % period] for step in range(count))
        return ()
