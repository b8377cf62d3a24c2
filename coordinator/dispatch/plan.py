"""From one layer's routing to the frames that are sent: pure.

Guarantees: every pair whose expert has a host appears in exactly one frame, and that frame's host holds the expert; pairs
whose expert has none come back as they are. In a frame, pairs are in canonical order (by expert, then row), each row has a
pair, and rows keep the order that they have in the step. No frame is larger than its caps.

Letters: T tokens, K experts a token, P pairs, R rows of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .choice import HostEstimate, choose, expert_work
from .pairs import Int64s, Pairs


@dataclass(frozen=True, slots=True)
class PlannedFrame:
    """What one frame will hold.

    Attributes:
        host: Index of the host.
        pairs: Its pairs, with rows of the step.
        rows: [R] rows of the step that it carries, ascending.
        local: The same pairs with rows as indices into `rows`: what goes on the wire.
        work: What computing it costs, in bytes of weights read.
    """

    host: int
    pairs: Pairs
    rows: Int64s
    local: Pairs
    work: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Frames to send, and pairs that no host can take (None when there are none)."""

    frames: list[PlannedFrame]
    orphans: Pairs | None


@dataclass(frozen=True, slots=True)
class FrameCaps:
    """The most that one frame may hold."""

    rows: int
    pairs: int


def plan(
    pairs: Pairs,
    holders: Sequence[Sequence[int]],
    hosts: Sequence[HostEstimate],
    expert_bytes: Sequence[int],
    caps: FrameCaps,
    frame_cost_s: float,
    turn: int = 0,
) -> Plan:
    """Plans the frames of one layer call.

    Args:
        pairs: What is to be computed; at least one pair.
        holders: For each expert of the layer the hosts that hold it, as indices into `hosts`.
        hosts: What is believed of each host.
        expert_bytes: Canonical bytes of each expert of the layer.
        caps: The most that one frame may hold.
        frame_cost_s: What one more frame costs the coordinator.
        turn: Which host goes first among equals.
    """
    experts, rows_of = pairs.loads
    orphaned = [expert for expert in experts if not holders[expert]]
    orphans: Pairs | None = None
    if orphaned:
        lost = np.isin(pairs.experts, orphaned)
        orphans, pairs = pairs.take(lost), pairs.take(~lost)
        if not len(pairs):
            return Plan([], orphans)
        kept = [(expert, rows) for expert, rows in zip(experts, rows_of, strict=True) if holders[expert]]
        experts, rows_of = [expert for expert, _ in kept], [rows for _, rows in kept]
    works = [expert_work(expert_bytes[expert], rows) for expert, rows in zip(experts, rows_of, strict=True)]
    chosen = choose(works, [holders[expert] for expert in experts], hosts, frame_cost_s, turn)
    work_of = dict.fromkeys(chosen, 0.0)
    for host, work in zip(chosen, works, strict=True):
        work_of[host] += work
    if len(work_of) == 1:
        return Plan(_frames(chosen[0], pairs, work_of[chosen[0]], caps), orphans)
    host_of = np.empty(len(holders), np.int64)
    host_of[experts] = chosen
    hosts_of_pairs = host_of[pairs.experts]
    frames: list[PlannedFrame] = []
    for host, work in work_of.items():
        frames += _frames(host, pairs.take(hosts_of_pairs == host), work, caps)
    return Plan(frames, orphans)


def _frames(host: int, pairs: Pairs, work: float, caps: FrameCaps) -> list[PlannedFrame]:
    """One host's pairs as one frame, or as several when there are too many rows or pairs for one."""
    rows, local = pairs.compact
    if len(rows) > caps.rows or (len(pairs) > caps.pairs and len(rows) > 1):
        at_most = min(caps.rows, -(-len(rows) * caps.pairs // len(pairs)), -(-len(rows) // 2))
        frames: list[PlannedFrame] = []
        for start in range(0, len(rows), at_most):
            first, last = rows[start], rows[min(start + at_most, len(rows)) - 1]
            part = pairs.take((pairs.rows >= first) & (pairs.rows <= last))
            frames += _frames(host, part, work * len(part) / len(pairs), caps)
        return frames
    return [PlannedFrame(host, pairs, rows, local, work)]
