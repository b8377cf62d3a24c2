"""Who is suspected more often than honest rounding explains, though its results are right: somebody may be learning the projections.

Guarantees: of each node, and of all nodes together in each layer, it is counted how many openings were looked at in an epoch of the
projections and how many of these were suspected for nothing; where that is no chance, whoever asks is told. Counts begin anew with
each epoch, for what was learned is worth nothing then. Bounded. For one thread.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from ...ids import NodeId
from ...trust.false_alarms import NO_CHANCE, as_many_by_chance
from ...trust.residuals import Stage

MOST_NODES: Final = 100_000


class ProbingWatch:
    """Of one coordinator."""

    def __init__(self, stage_rate: float) -> None:
        """`stage_rate` is how often a stage of an honest opening may be suspected."""
        self._rate = min(len(Stage) * stage_rate, 0.5)
        self._epoch = -1
        self._looked_at: Counter[NodeId | int] = Counter()
        self._for_nothing: Counter[NodeId | int] = Counter()

    def looked_at(self, node: NodeId, layer: int, epoch: int) -> None:
        """An opening was compared with the projections of an epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._looked_at.clear()
            self._for_nothing.clear()
        if len(self._looked_at) >= MOST_NODES:
            self._looked_at = Counter({one: self._looked_at[one] for one in self._for_nothing})
            if len(self._looked_at) >= MOST_NODES // 2:
                self._looked_at.clear()
                self._for_nothing.clear()
        self._looked_at[node] += 1
        self._looked_at[layer] += 1

    def for_nothing(self, node: NodeId, layer: int) -> tuple[bool, bool]:
        """The opening that was looked at last was suspected, and the result was right: whether that is more than chance of this node, and
        of all in the layer."""
        return self._is_no_chance(node), self._is_no_chance(layer)

    def forget(self, node: NodeId) -> None:
        """The node begins anew, if it ever comes back."""
        self._looked_at.pop(node, None)
        self._for_nothing.pop(node, None)

    def _is_no_chance(self, one: NodeId | int) -> bool:
        self._for_nothing[one] += 1
        return as_many_by_chance(self._for_nothing[one], self._looked_at[one], self._rate) < NO_CHANCE
