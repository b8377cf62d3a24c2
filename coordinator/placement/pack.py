"""Packing: a plan made only to fit, for units of different sizes that mending found no room for.

Guarantees: nothing is worse than before: a packing is taken only when more units are hosted, or have their replicas, or have them on
different owners. Where all units are of one size mending finds every room there is, and nothing is packed.

To fill nodes with pieces of different sizes as well as can be is a problem that nobody can solve in general; here the
largest come first, and several orders are tried, fewer the larger the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .board import Board
from .copies import Wanted
from .mend import mend
from .snapshot import NodeCapacity

TRIALS = 20_000
MOST_ATTEMPTS = 64
"""So many orders are tried at most, and so many units in all of them."""


def pack(board: Board, nodes: Sequence[NodeCapacity], replicas: int) -> Board:
    """A board on which more fits, or the same one."""
    units = board.units
    wanted = Wanted(np.full(len(units), replicas), np.full(len(units), replicas))
    best, best_worth = board, _worth(board, replicas)
    full = (len(units), len(units) * replicas, len(units) * min(replicas, board.owners))
    if best_worth[:2] == full[:2] or units.sizes.min() == units.sizes.max():
        return board
    if board.caps.sum() < ((replicas - board.elsewhere) * units.sizes).sum():
        return board
    for attempt in range(max(1, min(MOST_ATTEMPTS, TRIALS // len(units)))):
        fresh = Board(nodes, units, board.elsewhere)
        fresh.share_out(wanted.fewest)
        _fill(fresh, replicas, attempt)
        mend(fresh, wanted, replicas, np.zeros(len(units)))
        worth = _worth(fresh, replicas)
        if worth > best_worth:
            best, best_worth = fresh, worth
        if best_worth >= full:
            break
    return best


def _fill(board: Board, replicas: int, attempt: int) -> None:
    """Gives the largest units first, to the nodes with the least room for them, or with the most."""
    draw = np.random.default_rng(attempt)
    for unit in np.lexsort((draw.random(len(board.units)), -board.units.sizes)).tolist():
        for _ in range(replicas - int(board.elsewhere[unit])):
            allowed = board.can_take(unit)
            apart = allowed & board.apart(unit)
            nodes = np.flatnonzero(apart if apart.any() else allowed)
            if len(nodes):
                free = board.free[nodes] + draw.random(len(nodes))
                board.give(int(nodes[free.argmin() if attempt % 2 else free.argmax()]), unit)


def _worth(board: Board, replicas: int) -> tuple[int, int, int]:
    """Units that are hosted, replicas, owners of replicas: in this order of importance."""
    return (
        int((board.copies > 0).sum()),
        int(np.minimum(board.copies, replicas).sum()),
        int(np.minimum(board.spread, replicas).sum()),
    )
