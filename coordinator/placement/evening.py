"""Evening out: nodes that have much less than their share take over from those that have more.

Guarantees: no unit has fewer copies or fewer owners afterwards; only nodes that are below their share get anything, from nodes above
theirs, and only while the two differ by more than `IMBALANCE`: moving a unit costs a download. Nodes that have most of their share
already get no more than the caller allows.
"""

from __future__ import annotations

import numpy as np

from .board import Board
from .draft import groups_for
from .units import Floats, Ints

IMBALANCE = 0.05
"""Differences of fullness below this are left alone."""
ESTABLISHED = 0.5
"""A node that has so much of its share is no newcomer."""


def even_out(board: Board, moves: int) -> None:
    """Lets each node that is clearly below its share take over what it can, the emptiest first.

    Args:
        board: What is there.
        moves: How many units may move to nodes that are no newcomers.
    """
    smallest = int(board.units.sizes.min())
    waiting = np.ones(len(board.shares), np.bool_)
    while waiting.any():
        fullness = board.fullness()
        lack = board.shares - board.used
        waiting &= (lack >= np.maximum(IMBALANCE * board.shares, smallest)) & (board.free >= smallest)
        waiting &= (fullness < fullness.max() - IMBALANCE) & (board.experts < board.limits)
        if waiting.any():
            node = int(np.where(waiting, fullness, np.inf).argmin())
            waiting[node] = False
            if fullness[node] < ESTABLISHED:
                _take_over(board, node, len(board.units))
            elif moves > 0:
                moves -= _take_over(board, node, moves)


def trim(board: Board, most: Ints) -> None:
    """Takes copies beyond the most that are wanted: first those that share an owner, then from the fullest."""
    for unit in np.flatnonzero(board.copies > most).tolist():
        while board.copies[unit] > most[unit]:
            holders = board.holders(unit)
            owners = board.owner[holders]
            alone = np.bincount(owners, minlength=board.owners)[owners] == 1
            fullness = board.used[holders] / board.shares[holders]
            board.take(int(holders[np.lexsort((-holders, -fullness, alone))[0]]), unit)


def _take_over(board: Board, node: int, most: int) -> int:
    """Gives a node what it should have of the groups that it should be in, from the fullest; how many units that were."""
    taken = 0
    own = np.flatnonzero(board.in_group[node])
    wanted = groups_for(board, float(board.shares[node]))
    groups = own.tolist()
    if len(groups) < wanted:
        surplus = _surplus(board, node)
        surplus[own] = -np.inf
        order = np.argsort(-surplus, kind="stable")[: wanted - len(groups)]
        groups += [group for group in order.tolist() if surplus[group] > 0]
    sources = [_Source(board, node, group) for group in groups]
    deficit = board.shares[node] - board.used[node]
    while sources and deficit > 0 and taken < most:
        counts = board.in_group[node]
        sources.sort(key=lambda source: (int(counts[source.group]), source.group))
        source = sources[0]
        # Groups take turns, so that they end alike; one that has nothing to give drops out.
        if source.take_one():
            taken += 1
        else:
            sources.pop(0)
        deficit = board.shares[node] - board.used[node]
    return taken


def _surplus(board: Board, node: int) -> Floats:
    """[G] how much the nodes of each group have above their shares, and above what the taker has."""
    fullness = board.fullness()
    over = np.maximum(fullness - np.maximum(1.0, fullness[node]), 0.0)
    if board.far.any():
        over = over * np.where(board.far == board.far[node], 1.0, 0.5)
    result: Floats = over @ board.in_group
    return result


class _Source:
    """Where a node can take units of one group from."""

    def __init__(self, board: Board, node: int, group: int) -> None:
        self.group = group
        self._board, self._node = board, node
        self._members = board.units.members(group)
        self._givers: Ints = np.flatnonzero(board.in_group[:, group])
        self._givers = self._givers[self._givers != node]
        self._pairs = board.units.together(group)

    def take_one(self) -> bool:
        """Takes the unit that suits best from the fullest node that may give it; whether there was one."""
        board, node, members = self._board, self._node, self._members
        sizes = board.units.sizes[members]
        fullness = board.used[self._givers] / board.shares[self._givers]
        own = board.used[node] / board.shares[node]
        open_givers = self._givers[(fullness > 1) & (fullness > own + IMBALANCE)]
        if not len(open_givers):
            return False
        fullness = board.used[open_givers] / board.shares[open_givers]
        fits = ~board.has[node, members] & (sizes <= board.free[node])
        more = board.experts[node] + board.units.experts[members]
        fits &= (more <= board.limits[node]) | ((board.experts[node] == 0) & (board.limits[node] > 0))
        if not fits.any():
            return False
        after = (board.used[node] + sizes) / board.shares[node]
        options = board.has[open_givers, members] & fits[None, :] & (after[None, :] < fullness[:, None])
        owned = board.owner_has(node, members)
        same = board.owner[open_givers] == board.owner[node]
        options &= ~owned[None, :] | same[:, None]
        if not options.any():
            return False
        # Of the givers the fullest, and among these the one that has most of the group.
        crowded = board.in_group[open_givers, self.group] / max(int(board.in_group[:, self.group].max()), 1)
        score = (fullness + 0.01 * crowded)[:, None] * np.ones(len(sizes))[None, :]
        if self._pairs is not None:
            here = board.has[node, members].astype(np.float32)
            gain = self._pairs @ here
            loss = board.has[open_givers, members] @ self._pairs
            peak = max(float(gain.max()), float(loss.max()), 1e-6)
            score = score + (gain[None, :] - loss) / peak
        score = np.where(options, score, -np.inf)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        board.take(int(open_givers[row]), members.start + int(column))
        board.give(node, members.start + int(column))
        return True
