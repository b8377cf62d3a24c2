"""Whose results a sequence was computed from, for sequences that nobody audits as a whole.

Guarantees: for each node whose results had a part in what the sequence is now, a place from before the first of them is known.
A step from a node that is known already costs one comparison of sets. Pure bookkeeping: no locks.
"""

from __future__ import annotations

from collections.abc import Set

from ...ids import NodeId
from .place import Place


class Sources:
    """Those of one sequence."""

    def __init__(self) -> None:
        self._first: dict[NodeId, Place] = {}

    @property
    def nodes(self) -> Set[NodeId]:
        """All of them."""
        return self._first.keys()

    def consumed(self, nodes: Set[NodeId], before: Place) -> None:
        """A step was made from results of these nodes; where the sequence stood before it."""
        if not nodes <= self._first.keys():
            for node in nodes:
                self._first.setdefault(node, before)

    def condemn(self, node: NodeId) -> Place | None:
        """A node's results count for nothing: where to go back to; None when it had no part."""
        return self._first.get(node)

    def back_at(self, place: Place) -> None:
        """The sequence is at an earlier place again, or has lost its keys and values."""
        self._first = {
            node: first.earlier(place)
            for node, first in self._first.items()
            if first.cached < place.cached or first.length < place.length
        }
