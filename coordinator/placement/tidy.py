"""Tidying: units of one group change places, so that those that work together come together and no node has too much to do.

Guarantees: never more moves than allowed; no unit has fewer copies or owners afterwards, and no node more units than before; two units
change places only when that is clearly better, so that tidying ends. Every move costs a download: how many are worth it, the
caller says.

Letters: N nodes of a group, E units of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .board import Board
from .units import Floats, Ints, Mask, Matrix

CLEARLY = 0.25
"""A swap must bring so much of the company that the two units have where they are."""
TOO_MUCH = 1.15
"""Of its fair part of a group's work: what a node has beyond this weighs against it."""
WEIGHT_OF_WORK = 8.0


@dataclass(frozen=True, order=True)
class _Swap:
    """Two units that change places; the best comes first."""

    loss: float
    one: int
    unit: int
    other: int
    back: int


def tidy(board: Board, work: Floats, moves: int) -> None:
    """Makes the best swaps of each group.

    Args:
        board: What is there.
        work: [U] what one copy of each unit works.
        moves: How many units may move; a swap is two.
    """
    if moves < 2 or not board.units.known:
        return
    fair = board.weights / board.weights.sum() * board.units.groups
    worked = board.worked(work)
    found: list[_Swap] = []
    for group in range(board.units.groups):
        pairs = board.units.together(group)
        if pairs is not None:
            found += _Group(board, group, pairs, work, worked, fair).swaps()
    touched: set[int] = set()
    moved: set[int] = set()
    for swap in sorted(found):
        if moves < 2:
            return
        # What was reckoned holds only while neither the nodes nor the units' other hosts have changed.
        if touched.isdisjoint({swap.one, swap.other}) and moved.isdisjoint({swap.unit, swap.back}):
            touched |= {swap.one, swap.other}
            moved |= {swap.unit, swap.back}
            board.take(swap.one, swap.unit)
            board.take(swap.other, swap.back)
            board.give(swap.one, swap.back)
            board.give(swap.other, swap.unit)
            moves -= 2


class _Group:
    def __init__(
        self, board: Board, group: int, pairs: Matrix, work: Floats, worked: Floats, fair: Floats
    ) -> None:
        self._board = board
        self._members = board.units.members(group)
        self._nodes: Ints = np.flatnonzero(board.in_group[:, group])
        self._has: Mask = board.has[self._nodes, self._members]
        self._pairs = pairs
        self._company: Matrix = self._has.astype(np.float32) @ pairs  # [N, E]
        self._work = work[self._members]
        self._worked, self._fair = worked[self._nodes], fair[self._nodes]
        self._owned = np.array([board.owner_has(int(node), self._members) for node in self._nodes])

    def swaps(self) -> list[_Swap]:
        """For each pair of nodes the best swap, if there is one that is clearly better."""
        found = []
        for one in range(len(self._nodes)):
            for other in range(one + 1, len(self._nodes)):
                swap = self._best(one, other)
                if swap is not None:
                    found.append(swap)
        return found

    def _best(self, one: int, other: int) -> _Swap | None:
        leaving = np.flatnonzero(self._has[one] & ~self._owned[other])
        coming = np.flatnonzero(self._has[other] & ~self._owned[one])
        if not len(leaving) or not len(coming):
            return None
        company, pairs = self._company, self._pairs
        there = company[other, leaving] - company[one, leaving]
        back = company[one, coming] - company[other, coming]
        gain = there[:, None] + back[None, :] - 2 * pairs[np.ix_(leaving, coming)]
        stake = company[one, leaving][:, None] + company[other, coming][None, :]
        relief = WEIGHT_OF_WORK * self._relief(one, other, leaving, coming)
        sizes = self._board.units.sizes[self._members]
        even = sizes[leaving][:, None] == sizes[coming][None, :]
        clear = even & (gain + relief > CLEARLY * np.maximum(stake, 0.1))
        if not clear.any():
            return None
        score = np.where(clear, gain + relief, -np.inf)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        start = self._members.start
        return _Swap(
            -float(score[row, column]),
            int(self._nodes[one]),
            start + int(leaving[row]),
            int(self._nodes[other]),
            start + int(coming[column]),
        )

    def _relief(self, one: int, other: int, leaving: Ints, coming: Ints) -> Floats:
        """How much less the two nodes have beyond what is too much, after each swap."""
        shift = self._work[coming][None, :] - self._work[leaving][:, None]
        return np.asarray(
            self._beyond(one, np.zeros(1))
            + self._beyond(other, np.zeros(1))
            - self._beyond(one, shift)
            - self._beyond(other, -shift),
            np.float64,
        )

    def _beyond(self, node: int, more: Floats) -> Floats:
        return np.asarray(np.maximum((self._worked[node] + more) / self._fair[node] - TOO_MUCH, 0.0))
