"""The working table of placement: which node has which unit, and the moves that are made on it.

Guarantees: after each method no node is over its memory, none has a unit twice, and a unit that had a node still has one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ids import ExpertKey

IMBALANCE = 0.05
"""Differences of fullness below this are left alone: moving an expert costs a download."""


@dataclass(frozen=True)
class Unit:
    """Experts that stay together.

    Attributes:
        keys: The experts.
        size: Their bytes.
        group: Units of one group are spread evenly over nodes, because they work at the same time.
    """

    keys: tuple[ExpertKey, ...]
    size: int
    group: int


class UnitTable:
    """Nodes and units, both by index."""

    def __init__(
        self,
        units: Sequence[Unit],
        memories: Sequence[int],
        shares: Sequence[float],
        owners: Sequence[str],
        present: Sequence[set[int]],
        most_experts: Sequence[int | None],
    ) -> None:
        """Starts with empty nodes.

        Args:
            units: What is to be placed.
            memories: Bytes of each node.
            shares: What each node should hold in bytes.
            owners: Whose each node is.
            present: The units that each node has on its disk already.
            most_experts: How many experts each node may have, but for one unit; None for any number.
        """
        self._units = units
        self._free = list(memories)
        self._shares = [max(share, 1.0) for share in shares]
        self._owners = owners
        self._present = present
        self._most_experts = most_experts
        self._experts = [0] * len(memories)
        self._wanted: dict[int, list[int]] = {}
        for node, wanted in enumerate(present):
            for unit in wanted:
                self._wanted.setdefault(unit, []).append(node)
        self._groups: dict[int, list[int]] = {}
        for index, unit_of in enumerate(units):
            self._groups.setdefault(unit_of.group, []).append(index)
        self._load = [0] * len(memories)
        self._has: list[set[int]] = [set() for _ in memories]
        self._holders: list[list[int]] = [[] for _ in units]
        self._in_group: list[dict[int, int]] = [{} for _ in memories]
        self._smallest = min((unit.size for unit in units), default=0)

    def held(self, node: int) -> set[int]:
        """The units of a node."""
        return self._has[node]

    def keep(self, node: int, units: Iterable[int]) -> None:
        """Gives a node what it has, as far as it has room."""
        for unit in sorted(units):
            if self._fits(node, unit):
                self._give(node, unit)

    def trim(self, replicas: int) -> None:
        """Takes replicas beyond the wanted number from their fullest holders."""
        for unit, holders in enumerate(self._holders):
            while len(holders) > replicas:
                self._take(max(holders, key=lambda node: (self._fullness(node), node)), unit)

    def cover(self) -> None:
        """Finds a node for every unit that has none, if need be in the place of another unit's second replica."""
        emptiest = _Emptiest(self)
        for unit, holders in enumerate(self._holders):
            if holders:
                continue
            node = emptiest.find(unit)
            if node is None:
                node = self._make_room(unit)
            if node is not None:
                self._give(node, unit)
                emptiest.push(node)

    def replicate(self, wanted: int) -> None:
        """Finds one more node for every unit that has one less than wanted."""
        emptiest = _Emptiest(self)
        for unit, holders in enumerate(self._holders):
            if len(holders) != wanted - 1:
                continue
            node = emptiest.find(unit)
            if node is None:
                node = self._swap_in(unit)
            if node is not None:
                self._give(node, unit)
                emptiest.push(node)

    def rebalance(self) -> None:
        """Moves units from the fullest to the emptiest nodes while that evens them out."""
        while self._move_one():
            pass

    def fullness(self, node: int) -> float:
        """A node's load as a part of its share."""
        return self._fullness(node)

    def may_take(self, node: int, unit: int, *, apart: bool) -> bool:
        """Whether a node has room for a unit and not the unit; with `apart`, only if no holder has the same owner."""
        return self._fits(node, unit) and not (apart and self._shares_owner(node, unit))

    def wanting(self, unit: int) -> list[int]:
        """Nodes that have the unit on their disk, emptiest first."""
        return sorted(self._wanted.get(unit, ()), key=self._fullness)

    def nodes(self) -> range:
        """All nodes."""
        return range(len(self._free))

    def _fullness(self, node: int) -> float:
        return self._load[node] / self._shares[node]

    def _fits(self, node: int, unit: int) -> bool:
        if unit in self._has[node] or self._units[unit].size > self._free[node]:
            return False
        most, has = self._most_experts[node], self._experts[node]
        return most is None or not has or has + len(self._units[unit].keys) <= most

    def _shares_owner(self, node: int, unit: int, leaving: int = -1) -> bool:
        return any(
            self._owners[holder] == self._owners[node] for holder in self._holders[unit] if holder != leaving
        )

    def _give(self, node: int, unit: int) -> None:
        size, group = self._units[unit].size, self._units[unit].group
        self._has[node].add(unit)
        self._holders[unit].append(node)
        self._free[node] -= size
        self._experts[node] += len(self._units[unit].keys)
        self._load[node] += size
        self._in_group[node][group] = self._in_group[node].get(group, 0) + 1

    def _take(self, node: int, unit: int) -> None:
        size, group = self._units[unit].size, self._units[unit].group
        self._has[node].remove(unit)
        self._holders[unit].remove(node)
        self._free[node] += size
        self._experts[node] -= len(self._units[unit].keys)
        self._load[node] -= size
        self._in_group[node][group] -= 1

    def _make_room(self, unit: int) -> int | None:
        """A node that has room for the unit once it gave up replicas that others have too; it has given them up."""
        size = self._units[unit].size
        for node in sorted(self.nodes(), key=self._fullness, reverse=True):
            if self._most_experts[node] is not None:
                continue
            spare = [other for other in sorted(self._has[node]) if len(self._holders[other]) > 1]
            if self._free[node] + sum(self._units[other].size for other in spare) < size:
                continue
            while self._free[node] < size:
                self._take(node, spare.pop())
            return node
        return None

    def _swap_in(self, unit: int) -> int | None:
        """A node that has room for the unit once another of its units moved to a node with room; it has moved."""
        size = self._units[unit].size
        for roomy in self.nodes():
            if self._free[roomy] < self._smallest or len(self._has[roomy]) == len(self._units):
                continue
            for full in self.nodes():
                if unit in self._has[full] or full == roomy:
                    continue
                for other in sorted(self._has[full] - self._has[roomy]):
                    freed = self._free[full] + self._units[other].size
                    if freed >= size and self._fits(roomy, other):
                        self._take(full, other)
                        self._give(roomy, other)
                        return full
        return None

    def _move_one(self) -> bool:
        order = sorted(self.nodes(), key=self._fullness)
        for full in reversed(order):
            for roomy in order:
                if self._fullness(full) - self._fullness(roomy) <= IMBALANCE:
                    break
                unit = self._worth_moving(full, roomy)
                if unit is not None:
                    self._take(full, unit)
                    self._give(roomy, unit)
                    return True
        return False

    def _worth_moving(self, full: int, roomy: int) -> int | None:
        """The unit whose move evens two nodes out best; None when every move would make things worse."""
        mine, theirs = self._in_group[full], self._in_group[roomy]
        for group in sorted(mine, key=lambda group: theirs.get(group, 0) - mine[group]):
            movable = [unit for unit in self._groups[group] if self._improves(unit, full, roomy)]
            if movable:
                return min(
                    movable, key=lambda unit: (unit not in self._present[roomy], unit in self._present[full])
                )
        return None

    def _improves(self, unit: int, full: int, roomy: int) -> bool:
        if unit not in self._has[full] or not self._fits(roomy, unit):
            return False
        after = (self._load[roomy] + self._units[unit].size) / self._shares[roomy]
        return after < self._fullness(full) and not self._shares_owner(roomy, unit, leaving=full)


class _Emptiest:
    """Finds the emptiest node that may take a unit; nodes that were given something must be pushed again."""

    def __init__(self, table: UnitTable) -> None:
        self._table = table
        self._heap: list[tuple[float, int]] = []
        self._entry: dict[int, float] = {}
        for node in table.nodes():
            self.push(node)

    def push(self, node: int) -> None:
        """The node's fullness has changed: entries that say otherwise no longer count."""
        self._entry[node] = fullness = self._table.fullness(node)
        heapq.heappush(self._heap, (fullness, node))

    def find(self, unit: int) -> int | None:
        """A node for the unit: one that has it on its disk, else one of another owner, else any; None when none may."""
        for node in self._table.wanting(unit):
            if self._table.may_take(node, unit, apart=True):
                return node
        passed: list[tuple[float, int]] = []
        found: int | None = None
        fallback: int | None = None
        while self._heap and found is None:
            fullness, node = heapq.heappop(self._heap)
            if self._entry[node] != fullness:
                continue
            if self._table.fullness(node) != fullness:
                self.push(node)
                continue
            passed.append((fullness, node))
            if self._table.may_take(node, unit, apart=True):
                found = node
            elif fallback is None and self._table.may_take(node, unit, apart=False):
                fallback = node
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found if found is not None else fallback
