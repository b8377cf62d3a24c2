"""Mending: finds a node for each unit that misses a copy.

Guarantees: a unit without any copy comes before second copies, and those before further ones; copies go to other owners as long as
that is possible at all, if need be in the place of further copies of others, or of a unit that moves to where there
is room; where all units are of one size, each gets its replicas on different nodes, and on different owners, whenever memory
allows it. Every copy that is given here was missing, but for units that had to move to make room.
"""

from __future__ import annotations

import numpy as np

from .board import Board
from .copies import Wanted
from .units import Floats, Ints, Mask

LIKES_COMPANY = 1.0
"""How much fullness it is worth that all units which work for the same rows are on the node already."""
LIKES_BEING_THERE = 0.25
MOST_PASSES = 4
TRADERS = 32
"""So many nodes are asked to trade units of different sizes, those with most room first."""


def mend(board: Board, wanted: Wanted, replicas: int, work: Floats) -> int:
    """Places missing copies; returns how many others had to move to make room.

    Args:
        board: What is there.
        wanted: How many copies there should be.
        replicas: How many of them are not given up for others.
        work: [U] what one copy of each unit works.
    """
    if (board.spread >= min(replicas, board.owners)).all() and (board.copies >= wanted.fewest).all():
        return 0
    mending = _Mending(board, work)
    for level in range(1, replicas + 1):
        mending.reach(level)
    top = int(wanted.fewest.max(initial=0))
    for level in range(replicas + 1, top + 1):
        for unit in np.flatnonzero((board.copies < level) & (wanted.fewest >= level)).tolist():
            mending.place(unit, board.can_take(unit) & board.apart(unit))
    return mending.moved


class _Mending:
    def __init__(self, board: Board, work: Floats) -> None:
        self._board = board
        self._work = work
        self._worked: Floats | None = board.worked(work) if board.units.known else None
        self._fair = board.weights / board.weights.sum() * board.units.groups
        self._hopeless: set[tuple[object, ...]] = set()
        self.moved = 0
        self._sizes_differ = bool((board.units.sizes != board.units.sizes[0]).any())

    def reach(self, level: int) -> None:
        """Gives every unit so many copies, on as many owners as can be."""
        board = self._board
        possible = min(level, board.owners)
        for _ in range(MOST_PASSES):
            changes = board.changes
            short = (board.spread < possible) | (board.copies < level)
            for unit in np.flatnonzero(short).tolist():
                if board.spread[unit] < possible and self._apart(unit, level):
                    continue
                if board.copies[unit] < level and not self.place(unit, board.can_take(unit)):
                    self._squeeze(unit, level, ~board.has[:, unit], apart=False)
            if board.changes == changes:
                return

    def place(self, unit: int, allowed: Mask) -> bool:
        """Gives the unit to the best of some nodes; whether there was one."""
        nodes = np.flatnonzero(allowed)
        if not len(nodes):
            return False
        board = self._board
        group = board.units.group[unit]
        inside = board.in_group[nodes, group]
        if inside.any():
            nodes, inside = nodes[inside > 0], inside[inside > 0]
        score = -((board.used[nodes] + board.units.sizes[unit]) / board.shares[nodes])
        typical = (
            board.used[nodes] / np.maximum((board.in_group[nodes] > 0).sum(1), 1) / board.units.sizes[unit]
        )
        score -= LIKES_BEING_THERE * inside / np.maximum(typical, 1)
        if self._worked is not None:
            score -= (self._worked[nodes] + self._work[unit]) / self._fair[nodes]
        pairs = board.units.together(int(group))
        if pairs is not None:
            members = board.units.members(int(group))
            company = board.has[nodes, members] @ pairs[:, unit - members.start]
            score += LIKES_COMPANY * company / max(float(company.max()), 1e-6)
        self._give(int(nodes[score.argmax()]), unit)
        return True

    def _apart(self, unit: int, level: int) -> bool:
        """Gives the unit to a node of an owner that does not have it; whether that could be done."""
        board = self._board
        need = (board.owners_of(unit), int(board.units.sizes[unit]), int(board.units.experts[unit]), level)
        if need in self._hopeless:
            return False
        apart = board.apart(unit)
        if self.place(unit, board.can_take(unit) & apart) or self._squeeze(unit, level, apart, apart=True):
            return True
        if board.copies[unit] > board.spread[unit]:
            # One of the copies that an owner has twice gives up its place, where it may serve another unit better.
            holders = board.holders(unit)
            double = int(holders[board.doubled(holders, np.array([unit]))[:, 0]][-1])
            board.take(double, unit)
            if self._squeeze(unit, level, apart, apart=True):
                self._hopeless.clear()
                return True
            board.give(double, unit)
        self._hopeless.add(need)
        return False

    def _squeeze(self, unit: int, level: int, nodes: Mask, *, apart: bool) -> bool:
        """Makes room on one of some nodes, by dropping others' further copies, or by moving another unit away."""
        return (
            self._drop_for(unit, level, nodes, apart=apart)
            or self._move_for(unit, nodes, apart=apart)
            or (self._sizes_differ and self._trade_for(unit, nodes))
        )

    def _drop_for(self, unit: int, level: int, nodes: Mask, *, apart: bool) -> bool:
        """Puts the unit in the place of copies that others have beyond this level, or that only double what their owner has."""
        board = self._board
        where = np.flatnonzero(nodes & (board.limits >= board.experts))
        columns = np.flatnonzero((board.copies > level) | (apart & (board.copies > board.spread)))
        if not len(columns) or not len(where):
            return False
        droppable = self._droppable(where, columns, level, apart=apart)
        freed = droppable @ board.units.sizes[columns]
        enough = board.free[where] + freed >= board.units.sizes[unit]
        if not enough.any():
            return False
        fullness = np.where(enough, board.fullness()[where], -np.inf)
        row = int(fullness.argmax())
        node = int(where[row])
        mine = columns[droppable[row]]
        for other in mine[np.lexsort((mine, -board.copies[mine]))].tolist():
            if board.can_take(unit)[node]:
                break
            if self._droppable(np.array([node]), np.array([other]), level, apart=apart).any():
                self._take(node, other)
        if not board.can_take(unit)[node]:
            return False
        self._give(node, unit)
        return True

    def _droppable(self, nodes: Ints, units: Ints, level: int, *, apart: bool) -> Mask:
        """[n, u] which copies may go: no unit falls below the level, nor do its owners."""
        board = self._board
        doubled = board.doubled(nodes, units)
        further = (board.copies[units] > level)[None, :] & (doubled | (board.spread[units] > level)[None, :])
        return board.has[np.ix_(nodes, units)] & (further | (apart & doubled))

    def _move_for(self, unit: int, nodes: Mask, *, apart: bool) -> bool:
        """Moves another unit to a node with room, and puts this one in its place."""
        board = self._board
        sizes, experts = board.units.sizes, board.units.experts
        where = np.flatnonzero(nodes)
        if not len(where):
            return False
        holding = board.has[where]
        roomy = np.flatnonzero((board.free >= sizes.min()) & (board.experts < board.limits))
        for target in roomy[np.argsort(board.fullness()[roomy], kind="stable")].tolist():
            movable = ~board.has[target] & (sizes <= board.free[target])
            movable &= board.experts[target] + experts <= board.limits[target]
            options = holding & movable[None, :]
            options &= (board.free[where, None] + sizes[None, :]) >= sizes[unit]
            options &= (board.experts[where, None] - experts[None, :] + experts[unit]) <= board.limits[
                where, None
            ]
            options[where == target] = False
            if apart:
                own = board.owner[where] == board.owner[target]
                options &= own[:, None] | ~board.owner_has(target, slice(0, len(sizes)))[None, :]
            if not options.any():
                continue
            row, other = np.unravel_index(int(options.argmax()), options.shape)
            self._take(int(where[row]), int(other))
            self._give(target, int(other))
            self.moved += 1
            self._give(int(where[row]), unit)
            return True
        return False

    def _trade_for(self, unit: int, nodes: Mask) -> bool:
        """Lets a node trade a unit for a smaller one of another node, so that this one fits."""
        board = self._board
        sizes = board.units.sizes
        where = np.flatnonzero(nodes & (board.limits > board.experts))
        roomy = np.flatnonzero(board.free > 0)
        for node in where[np.argsort(-board.free[where], kind="stable")][:TRADERS].tolist():
            lack = int(sizes[unit] - board.free[node])
            for other in roomy[np.argsort(-board.free[roomy], kind="stable")][:TRADERS].tolist():
                if other == node or lack > board.free[other]:
                    continue
                same = board.owner[node] == board.owner[other]
                whole = slice(0, len(sizes))
                going = np.flatnonzero(
                    board.has[node] & ~(board.has[other] if same else board.owner_has(other, whole))
                )
                coming = np.flatnonzero(
                    board.has[other] & ~(board.has[node] if same else board.owner_has(node, whole))
                )
                coming = coming[coming != unit]
                gain = sizes[going][:, None] - sizes[coming][None, :]
                fits = (gain >= lack) & (gain <= board.free[other])
                if fits.any():
                    row, column = np.unravel_index(int(fits.argmax()), fits.shape)
                    self._take(node, int(going[row]))
                    self._take(other, int(coming[column]))
                    self._give(other, int(going[row]))
                    self._give(node, int(coming[column]))
                    self._give(node, unit)
                    self.moved += 2
                    return True
        return False

    def _give(self, node: int, unit: int) -> None:
        self._board.give(node, unit)
        if self._worked is not None:
            self._worked[node] += self._work[unit]

    def _take(self, node: int, unit: int) -> None:
        self._board.take(node, unit)
        self._hopeless.clear()
        if self._worked is not None:
            self._worked[node] -= self._work[unit]
