"""Who should hold what: a pure function from a snapshot of the network to a target.

Guarantees: no node is given more bytes than it lends, nor an expert twice; every expert that can be hosted is hosted before
any has a second replica, and has two, on different owners where there are any, before popular ones have more; nodes that are to be
given few experts get more only when some expert would otherwise have too few replicas; the same snapshot gives the same
target, in whatever order its nodes come, and the target itself, taken as the holdings, gives itself back. Where all units are of one
size, every unit gets its replicas whenever the nodes' memory allows it at all.

A unit is what stays together on a node: an expert, or a whole layer of a sliced model. A node's share is its part of all
copies in proportion to its speed, as far as its memory goes. What changes little moves little: missing copies are made, copies that are
too many are dropped, nodes far below their share take over from those above it, and nothing else moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...ids import ExpertKey
from .board import Board
from .copies import wanted_copies
from .draft import draft
from .evening import even_out, trim
from .mend import mend
from .own import own_share
from .pack import pack
from .snapshot import NodeCapacity, OwnCapacity, Target, Traffic
from .tidy import tidy
from .units import Floats, Ints, Units

MOST_ROUNDS = 4
WORTH_A_DRAFT = 0.25
"""Nodes are filled side by side when so much of what is wanted is missing; less is mended one by one."""

EVENING_WITH = 0.3
"""For each copy that had to be made, so many may move only to even out nodes that are no newcomers."""


def place(
    nodes: Sequence[NodeCapacity],
    sizes: Mapping[ExpertKey, int],
    *,
    replicas: int = 2,
    layers_together: bool = False,
    traffic: Traffic | None = None,
    tidy_moves: int = 0,
    own: OwnCapacity | None = None,
) -> Target:
    """Decides who should hold what.

    Args:
        nodes: All nodes that may be counted on; their order does not matter.
        sizes: Bytes of each expert of the model.
        replicas: How many nodes should hold each expert.
        layers_together: Whether a layer's experts all work for every token, so that one node should have them all.
        traffic: How experts were used; None when nothing is known.
        tidy_moves: How many experts may be moved only so that those that work together come together.
        own: What the coordinator hosts itself; None when it hosts nothing.
    """
    nodes = sorted(nodes, key=lambda node: node.node)
    units = Units(sizes, traffic, whole_layers=False)
    whole = Units(sizes, None, whole_layers=True) if layers_together else None
    target: Target = {} if own is None else {own.node: own_share(own, sizes, units, whole)}
    here = frozenset[ExpertKey]() if own is None else target[own.node]
    if not nodes or not sizes:
        return target | {node.node: frozenset() for node in nodes}
    task = _Task(units, whole, here, replicas, tidy_moves)
    placed = task.place(nodes)
    if any(node.most_experts is not None for node in nodes) and not _complete(placed, units, here, replicas):
        placed = task.place([replace(node, most_experts=None) for node in nodes])
    return target | placed


@dataclass(frozen=True)
class _Task:
    """What is to be placed on nodes, whichever they are; `here` is what the coordinator has itself."""

    units: Units
    whole: Units | None
    here: frozenset[ExpertKey]
    replicas: int
    tidy_moves: int

    def place(self, nodes: Sequence[NodeCapacity]) -> Target:
        """Decides for some nodes."""
        if self.whole is None:
            return self._solve(nodes, self.units, even=True, tidy_moves=self.tidy_moves)
        target = self._solve(nodes, self.whole, even=True)
        # Layers that found no node with room for all of them are spread as experts.
        kept = [replace(node, holds=target[node.node]) for node in nodes]
        return self._solve(kept, self.units, even=False)

    def _solve(
        self, nodes: Sequence[NodeCapacity], units: Units, *, even: bool, tidy_moves: int = 0
    ) -> Target:
        """Keeps what can be kept, adds what is missing, and evens out, until nothing changes."""
        board = Board(nodes, units, _copies(units, self.here))
        before = [units.among(node.holds) for node in nodes]
        for index, kept in enumerate(before):
            board.keep(index, kept)
        for _ in range(MOST_ROUNDS):
            changes = board.changes
            _improve(board, self.replicas, even=even)
            if board.changes == changes:
                break
        board = pack(board, nodes, self.replicas)
        if tidy_moves:
            tidy(board, _work(board, board.copies), tidy_moves)
        return {
            node.node: _experts(board, index, kept, node.holds)
            for index, (node, kept) in enumerate(zip(nodes, before, strict=True))
        }


def _copies(units: Units, keys: frozenset[ExpertKey]) -> Ints:
    """[U] 1 for the units that are wholly among some experts."""
    copies = np.zeros(len(units), np.int64)
    copies[units.among(keys)] = 1
    return copies


def _complete(target: Target, units: Units, here: frozenset[ExpertKey], replicas: int) -> bool:
    copies = _copies(units, here)
    for keys in target.values():
        copies[units.among(keys)] += 1
    return bool((copies >= replicas).all())


def _improve(board: Board, replicas: int, *, even: bool) -> None:
    units = board.units
    room_bytes = float(board.caps.sum() + (board.elsewhere * units.sizes).sum())
    most = len(board.free) + int(board.elsewhere.any())
    wanted = wanted_copies(units, board.copies, room_bytes, replicas, most)
    copies = np.clip(board.copies, wanted.fewest, wanted.most)
    board.share_out(copies)
    trim(board, wanted.most)
    had = int(board.copies.sum())
    work = _work(board, copies)
    for level in _levels(board, copies, replicas):
        missing = np.maximum(level - board.copies, 0)
        if (missing * units.sizes).sum() > WORTH_A_DRAFT * (copies * units.sizes).sum():
            draft(board, missing, np.maximum(board.shares - board.used, 0.0), work)
    moved = mend(board, wanted, replicas, work)
    trim(board, wanted.most)
    if even:
        even_out(board, int(EVENING_WITH * (int(board.copies.sum()) - had)) - moved)


def _work(board: Board, copies: Ints) -> Floats:
    """[U] what one copy of each unit works, if there are so many; all copies of a group 1."""
    units = board.units
    whole = np.add.reduceat(units.popularity, units.starts[:-1])
    return np.asarray(units.popularity / np.repeat(whole, np.diff(units.starts)) / np.maximum(copies, 1))


def _levels(board: Board, copies: Ints, replicas: int) -> list[Ints]:
    """How many copies to draft at a time: all at once where there is room for them, else one after another."""
    if ((copies - board.elsewhere) * board.units.sizes).sum() <= board.shares.sum() * (1 + 1e-9):
        return [copies]
    return [np.minimum(copies, level) for level in range(1, replicas + 1)]


def _experts(board: Board, index: int, before: Ints, holds: frozenset[ExpertKey]) -> frozenset[ExpertKey]:
    now = np.flatnonzero(board.has[index])
    experts = board.units.experts_of(now)
    return holds if np.array_equal(now, before) and len(experts) == len(holds) else experts
