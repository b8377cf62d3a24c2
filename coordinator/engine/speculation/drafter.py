"""Drafts of one sequence.

Guarantees: never more than a step can use: all drafts kept, and one token sampled after them, the sequence is no longer than it
may become; a sequence whose drafts did harm gets none any more.
"""

from __future__ import annotations

from .draft_length import DraftLength
from .prompt_lookup import PromptLookup


class Drafter:
    """What a sequence may go on with."""

    def __init__(self, tokens: list[int], *, longest: int, most: int) -> None:
        """Made with the sequence.

        Args:
            tokens: The sequence's own list, which grows; where it is shortened, `look_again` follows.
            longest: How many tokens the sequence may come to, prompt and answer.
            most: Drafts of one step at most, 1 or more.
        """
        self._tokens = tokens
        self._longest = longest
        self._lookup = PromptLookup(tokens)
        self._length = DraftLength(most)
        self._silent = False

    def learn(self, end: int) -> None:
        """The first `end` tokens are about to be computed; those that were learnt before cost nothing."""
        if not self._silent:
            self._lookup.learn(end)

    def propose(self, most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may follow."""
        count = min(most, self._length.tokens, self._longest - len(self._tokens) - 1)
        return self._lookup.propose(count) if count > 0 and not self._silent else ()

    def fared(self, proposed: int, accepted: int) -> None:
        """A step sampled for the sequence; the first `accepted` of its `proposed` drafts were kept."""
        self._length.fared(proposed, accepted)

    def look_again(self) -> None:
        """The sequence has become shorter."""
        self._lookup = PromptLookup(self._tokens)

    def silence(self) -> None:
        """No more drafts."""
        self._silent = True
