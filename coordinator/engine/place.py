"""A point in a sequence's life that it can be taken back to."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a sequence stood before a step.

    Attributes:
        cached: Tokens whose keys and values it had.
        length: Tokens that it had.
    """

    cached: int
    length: int

    def earlier(self, other: Place) -> Place:
        """What is right by both."""
        return Place(min(self.cached, other.cached), min(self.length, other.length))
