"""The first draft: fills nodes that have room with units that miss copies, all groups side by side.

Guarantees: no node gets a unit twice, nor more than its memory, its limit, or the room that it was said to have. What it could not
place is left for mending. Units that work together are put together, and each node gets about the work that its speed
calls for.

A node is given few groups, and much of each: so few nodes are asked for a row. Yet `WIDTH` nodes share the work of one group where
there are so many, because a step waits for one group after another.

Letters: N nodes, U units, G groups, E units of the largest group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .board import Board
from .units import Floats, Ints, Mask, Matrix

Number = TypeVar("Number", np.int64, np.float64)

WIDTH = 24
"""How many nodes share one group, where there are enough."""
FORCED = np.float32(1e6)
CLASH = np.float32(1e3)
STRICT = 0.5
LIKES_OFTEN_MISSED = np.float32(0.5)


def draft(board: Board, missing: Ints, room: Floats, work: Floats) -> None:
    """Gives units to nodes.

    Args:
        board: What is there already.
        missing: [U] copies to be made of each unit.
        room: [N] bytes that each node should get at most.
        work: [U] what one copy of each unit works, all of a group 1 over all copies that it will have.
    """
    if not missing.any() or not room.any():
        return
    quotas = _quotas(board, missing, room)
    _Filling(board, missing, quotas, work).run()


def bundle_bytes(board: Board) -> float:
    """How many bytes of one group a node should have, so that `WIDTH` nodes share a group."""
    return float(board.shares.sum()) / board.units.groups / WIDTH


def groups_for(board: Board, room: float) -> int:
    """In how many groups a node with so much room should be."""
    wanted = round(room / max(bundle_bytes(board), 1.0))
    return min(max(wanted, 1), board.units.groups)


def _quotas(board: Board, missing: Ints, room: Floats) -> Ints:
    """[N, G] how many units of each group each node should get."""
    units = board.units
    counts = np.add.reduceat(missing, units.starts[:-1])
    need = np.add.reduceat(missing * units.sizes, units.starts[:-1]).astype(np.float64)
    size = np.where(counts > 0, need / np.maximum(counts, 1), 1.0)
    largest = np.diff(units.starts) * size
    room = np.minimum(room, board.free).astype(np.float64)
    room = np.minimum(room, np.maximum(board.limits - board.experts, 0) * units.sizes.max())
    if room.sum() > need.sum():
        room = room * (need.sum() / room.sum())
    given = np.zeros(board.in_group.shape)
    left = need.copy()
    speed_left = need / need.sum()
    weights = board.weights * (room / np.maximum(board.shares, 1.0))
    speeds = weights / max(float(weights.sum()), 1e-300)
    # Those far away go first, and fill group by group, so that few groups have to wait for them.
    for node in np.lexsort((np.arange(len(room)), -room, ~board.far)).tolist():
        rest, groups = room[node], groups_for(board, room[node])
        while rest > 0:
            open_groups = left > 1e-6 * need.sum() / len(need)
            open_groups &= given[node] == 0
            if not open_groups.any():
                break
            if board.far[node]:
                urgent = -np.arange(len(left), dtype=np.float64)
            else:
                urgent = left / np.maximum(need, 1) + speed_left / np.maximum(need / need.sum(), 1e-300)
                urgent += 0.1 * (board.in_group[node] > 0)
            urgent[~open_groups] = -np.inf
            chosen = np.argsort(-urgent, kind="stable")[: min(groups, int(open_groups.sum()))]
            part = np.minimum(np.minimum(rest / groups, left[chosen]), largest[chosen])
            given[node, chosen] = part
            left[chosen] -= part
            speed_left[chosen] -= speeds[node] * part / max(room[node], 1.0)
            rest -= float(part.sum())
            groups = max(groups - len(chosen), 1)
    return _rounded(given / size, counts, room, size, np.diff(units.starts))


def _rounded(parts: Floats, counts: Ints, room: Floats, size: Floats, most: Ints) -> Ints:
    """Whole numbers near `parts` that add up to `counts` over nodes, as far as nodes have room."""
    whole = np.floor(parts + 1e-6).astype(np.int64)
    rest = room - whole @ size
    for group in range(len(counts)):
        lack = int(counts[group] - whole[:, group].sum())
        if lack <= 0:
            continue
        order = np.argsort(-(rest / size[group] + (parts[:, group] > 0)), kind="stable")
        order = order[(parts[order, group] > 0) & (whole[order, group] < most[group])][:lack]
        order = order[rest[order] > -0.5 * size[group]]
        whole[order, group] += 1
        rest[order] -= size[group]
    return whole


@dataclass
class _Turn:
    """One node in each group: the next to be filled there. All [G]; `node` is -1 where a group has no more."""

    node: Ints
    quota: Ints
    work: Floats
    after: Ints


class _Filling:
    """Fills one node of each group at a time, one unit of each at a time."""

    def __init__(self, board: Board, missing: Ints, quotas: Ints, work: Floats) -> None:
        units = board.units
        self._board, self._quotas = board, quotas
        lengths = np.diff(units.starts)
        self._width = int(lengths.max())
        self._places = np.arange(self._width)[None, :] < lengths[:, None]  # [G, E]
        self._missing = self._padded(missing)
        self._work = self._padded(work).astype(np.float32)
        self._log_work = np.log2(np.maximum(self._work, np.float32(1e-12)))
        together = [units.together(group) for group in range(units.groups)]
        self._known = any(pairs is not None for pairs in together)
        shape = (units.groups, self._width, self._width) if self._known else (0, 0, 0)
        self._together: Matrix = np.zeros(shape, np.float32)
        for group, pairs in enumerate(together):
            if pairs is not None:
                self._together[group, : lengths[group], : lengths[group]] = pairs

    def run(self) -> None:
        """Fills all nodes that have a quota."""
        for turn in self._turns():
            self._fill(turn)

    def _padded(self, values: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """[G, E] from [U], with zeros where a group has fewer units than the largest."""
        result = np.zeros(self._places.shape, values.dtype)
        result[self._places] = values
        return result

    def _turns(self) -> list[_Turn]:
        """Nodes of each group, those with most work for their room first: they get what works most."""
        queues: list[list[int]] = []
        for group in range(self._quotas.shape[1]):
            nodes = np.flatnonzero(self._quotas[:, group])
            density = self._speed(nodes, group) / self._quotas[nodes, group]
            queues.append(nodes[np.lexsort((nodes, -density))].tolist())
        turns = []
        groups = np.arange(len(queues))
        totals = np.array(
            [
                max(float(self._speed(np.array(queue, np.int64), group).sum()), 1e-300)
                for group, queue in enumerate(queues)
            ]
        )
        for number in range(max(map(len, queues))):
            node = np.array([queue[number] if number < len(queue) else -1 for queue in queues], np.int64)
            quota = np.where(node >= 0, self._quotas[node, groups], 0)
            speed = np.array(
                [
                    float(self._speed(np.array([one]), group)[0]) if one >= 0 else 0.0
                    for group, one in enumerate(node.tolist())
                ]
            )
            after = np.array([max(len(queue) - number, 0) for queue in queues], np.int64)
            turns.append(_Turn(node, quota, speed / totals, after))
        return turns

    def _speed(self, nodes: Ints, group: int) -> Floats:
        """[n] the part of nodes' speed that is for a group."""
        part: Floats = (
            self._board.weights[nodes]
            * self._quotas[nodes, group]
            / np.maximum(self._quotas[nodes].sum(1), 1)
        )
        return part

    def _fill(self, turn: _Turn) -> None:
        board, groups = self._board, np.arange(len(turn.node))
        holding, clashing = self._present(turn)
        affinity = np.zeros(self._places.shape, np.float32)
        if self._known and holding.any():
            affinity += np.einsum("gef,gf->ge", self._together, holding.astype(np.float32))
        worked = np.zeros(len(groups), np.float32)
        forced = np.where((self._missing >= turn.after[:, None]) & (self._missing > 0), FORCED, np.float32(0))
        often = LIKES_OFTEN_MISSED * self._missing / np.maximum(self._missing.max(1, keepdims=True), 1)
        base = (forced + often - CLASH * clashing).astype(np.float32)
        base[holding | (self._missing <= 0)] = -np.inf
        if not self._known:
            base += np.float32(1e-3) * self._work
        for step in range(int(turn.quota.max())):
            score = base.copy()
            if self._known:
                peak = affinity.max(1, keepdims=True)
                score += affinity / np.maximum(peak, np.float32(1e-6))
                if step == 0:
                    score += self._work / np.maximum(self._work.max(1, keepdims=True), np.float32(1e-9))
            # What is still to be worked is spread over the units still to come: the last ones have to make it up.
            left = np.maximum(turn.work - worked, 1e-12) / np.maximum(turn.quota - step, 1)
            progress = STRICT * (step + 1) / np.maximum(turn.quota, 1)
            off = np.abs(self._log_work - np.log2(left)[:, None])
            score -= (progress[:, None] * np.minimum(off, 4)).astype(np.float32)
            best = score.argmax(1)
            chosen = (score[groups, best] > -CLASH / 2) & (step < turn.quota)
            where, what = groups[chosen], best[chosen]
            if not len(where):
                break
            base[where, what] = -np.inf
            self._missing[where, what] -= 1
            worked[where] += self._work[where, what]
            if self._known:
                affinity[where] += self._together[where, what]
            for group, unit in zip(where.tolist(), what.tolist(), strict=True):
                self._give(int(turn.node[group]), int(board.units.starts[group]) + unit)

    def _present(self, turn: _Turn) -> tuple[Mask, Mask]:
        """[G, E] what the turn's nodes have, and what their owners have."""
        holding, clashing = np.zeros_like(self._places), np.zeros_like(self._places)
        for group, node in enumerate(turn.node.tolist()):
            if node >= 0:
                members = self._board.units.members(group)
                length = members.stop - members.start
                holding[group, :length] = self._board.has[node, members]
                clashing[group, :length] = self._board.owner_has(node, members)
        return holding, clashing

    def _give(self, node: int, unit: int) -> None:
        board = self._board
        size, experts = board.units.sizes[unit], board.units.experts[unit]
        if size <= board.free[node] and (
            board.experts[node] == 0 or board.experts[node] + experts <= board.limits[node]
        ):
            board.give(node, unit)
