"""The working table of placement: which node has which unit.

Guarantees: `give` and `take` keep all counts true; nothing is given to a node that `can_take` does not name. Letters: N nodes,
U units, G groups, O owners.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .shares import fair_shares, weights_of
from .snapshot import NodeCapacity
from .units import Floats, Ints, Mask, Units

NO_LIMIT = 1 << 31


class Board:
    """Nodes and units, both by index.

    Attributes:
        units: The units.
        has: [N, U] which node has which unit.
        elsewhere: [U] 1 for units that the coordinator has itself, and 0 for others.
        copies: [U] how many nodes have it, the coordinator included.
        spread: [U] how many owners have it, likewise.
        free: [N] bytes.
        used: [N] bytes.
        experts: [N] experts that it has.
        limits: [N] experts that it may have, but for one unit.
        in_group: [N, G] units of each group.
        owner: [N] whose it is.
        owners: How many owners there are.
        weights: [N] what each can do against the others.
        shares: [N] bytes that each should have; set by `share_out`.
        far: [N] which are much further away than most.
    """

    def __init__(self, nodes: Sequence[NodeCapacity], units: Units, elsewhere: Ints) -> None:
        """Starts with empty nodes; `elsewhere` [U] says which units have a copy, of another owner, that is not on the board."""
        self.units = units
        self.elsewhere = elsewhere
        names: dict[str, int] = {}
        self.owner: Ints = np.array(
            [names.setdefault(node.owner or node.node, len(names)) for node in nodes], np.int64
        )
        self.owners = len(names)
        count = len(nodes)
        self.has: Mask = np.zeros((count, len(units)), np.bool_)
        self._owned: npt.NDArray[np.int16] = np.zeros((self.owners, len(units)), np.int16)
        self.copies: Ints = elsewhere.copy()
        self.spread: Ints = elsewhere.copy()
        self.free: Ints = np.array([node.memory_bytes for node in nodes], np.int64)
        self.used: Ints = np.zeros(count, np.int64)
        self.experts: Ints = np.zeros(count, np.int64)
        self.limits: Ints = np.array(
            [
                # What it holds already may stay: moving it would cost downloads, and all that it answers is audited.
                NO_LIMIT if node.most_experts is None else max(node.most_experts, len(node.holds))
                for node in nodes
            ],
            np.int64,
        )
        self.in_group: Ints = np.zeros((count, units.groups), np.int64)
        self.weights: Floats = weights_of(nodes)
        self.caps: Floats = np.minimum(self.free, int(units.sizes.sum())).astype(np.float64)
        self.shares: Floats = np.ones(count)
        self.far: Mask = _far(np.array([node.round_trip_s for node in nodes]))
        self.changes = 0

    def keep(self, node: int, units: Ints) -> None:
        """Gives a node what it has, as far as it has room."""
        if not len(units):
            return
        if (
            self.units.sizes[units].sum() > self.free[node]
            or self.units.experts[units].sum() > self.limits[node]
        ):
            for unit in units.tolist():
                if self.can_take(unit)[node]:
                    self.give(node, unit)
            return
        owner = self.owner[node]
        self.has[node, units] = True
        self.spread[units] += self._owned[owner, units] == 0
        self._owned[owner, units] += 1
        self.copies[units] += 1
        self.free[node] -= self.units.sizes[units].sum()
        self.used[node] += self.units.sizes[units].sum()
        self.experts[node] += self.units.experts[units].sum()
        self.in_group[node] += np.bincount(self.units.group[units], minlength=self.units.groups)

    def share_out(self, copies: Ints) -> None:
        """Says what each node should have when there are so many copies of each unit."""
        need = float((np.maximum(copies - self.elsewhere, 0) * self.units.sizes).sum())
        self.shares = np.maximum(fair_shares(self.caps, self.weights, need), 1.0)

    def fullness(self) -> Floats:
        """[N] what each node has as a part of its share."""
        return np.asarray(self.used / self.shares, np.float64)

    def worked(self, work: Floats) -> Floats:
        """[N] what each node works, when a copy of each unit works so much."""
        nodes, units = np.divmod(np.flatnonzero(self.has), len(self.units))
        return np.bincount(nodes, work[units], len(self.free)).astype(np.float64)

    def can_take(self, unit: int) -> Mask:
        """[N] which nodes have room for a unit, and not the unit."""
        more = self.experts + self.units.experts[unit]
        result: Mask = (
            ~self.has[:, unit]
            & (self.free >= self.units.sizes[unit])
            & ((more <= self.limits) | ((self.experts == 0) & (self.limits > 0)))
        )
        return result

    def apart(self, unit: int) -> Mask:
        """[N] which nodes are of owners that do not have the unit."""
        result: Mask = self._owned[self.owner, unit] == 0
        return result

    def owner_has(self, node: int, units: slice | Ints) -> Mask:
        """[E] which of some units the node's owner has, on whichever of its nodes."""
        return np.asarray(self._owned[self.owner[node], units] > 0)

    def doubled(self, nodes: Ints, units: Ints) -> Mask:
        """[n, u] which of some units the owners of some nodes have more than once."""
        return np.asarray(self._owned[np.ix_(self.owner[nodes], units)] > 1)

    def owners_of(self, unit: int) -> tuple[int, ...]:
        """Who has a unit."""
        return tuple(np.unique(self.owner[self.has[:, unit]]).tolist())

    def holders(self, unit: int) -> Ints:
        """The nodes that have a unit."""
        return np.flatnonzero(self.has[:, unit])

    def give(self, node: int, unit: int) -> None:
        """The node has the unit from now on."""
        self._change(node, unit, 1)

    def take(self, node: int, unit: int) -> None:
        """The node has the unit no more."""
        self._change(node, unit, -1)

    def _change(self, node: int, unit: int, by: int) -> None:
        size, owner = self.units.sizes[unit], self.owner[node]
        self.has[node, unit] = by > 0
        self.copies[unit] += by
        owned = self._owned[owner, unit]
        self._owned[owner, unit] = owned + by
        self.spread[unit] += int(owned + by > 0) - int(owned > 0)
        self.free[node] -= by * size
        self.used[node] += by * size
        self.experts[node] += by * self.units.experts[unit]
        self.in_group[node, self.units.group[unit]] += by
        self.changes += 1


def _far(round_trips_s: Floats) -> Mask:
    """Nodes at more than twice, and at least 20 ms more than, the usual round trip."""
    measured = round_trips_s[round_trips_s > 0]
    usual = float(np.median(measured)) if len(measured) else 0.0
    return round_trips_s > max(2 * usual, usual + 0.02)
