"""From where things are to the target, make before break: a pure function.

Guarantees: a node is told to drop an expert only when other nodes have reported it ready and are not told to drop it, so
coverage never shrinks while experts move; no node is told to hold more bytes than it lends. Repeated as nodes report, it
ends at the target whenever there is room to move in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ids import ExpertKey, NodeId


@dataclass(frozen=True)
class Holder:
    """What one attached node has.

    Attributes:
        node: Who it is.
        memory_bytes: The most that it may be told to hold.
        ready: Experts that it serves, and was not told to drop.
        held: Experts that it has and does not serve yet.
    """

    node: NodeId
    memory_bytes: int
    ready: frozenset[ExpertKey]
    held: frozenset[ExpertKey] = frozenset()


def next_assignments(
    target: Mapping[NodeId, frozenset[ExpertKey]],
    holders: Sequence[Holder],
    sizes: Mapping[ExpertKey, int],
) -> dict[NodeId, tuple[ExpertKey, ...]]:
    """What each node should be told to hold now, most urgent first.

    Args:
        target: Where everything should end; nodes that it does not name are told to hold nothing more.
        holders: The attached nodes. A node of the target that is not among them is not counted on.
        sizes: Bytes of each expert.
    """
    sure = Counter(key for holder in holders for key in holder.ready)
    wanted_by: dict[ExpertKey, list[NodeId]] = {}
    arrived: Counter[ExpertKey] = Counter()
    for holder in sorted(holders, key=lambda holder: holder.node):
        for key in target.get(holder.node, ()):
            wanted_by.setdefault(key, []).append(holder.node)
            arrived[key] += key in holder.ready
    urgency = _Urgency(sure, wanted_by)
    assignments: dict[NodeId, tuple[ExpertKey, ...]] = {}
    for holder in holders:
        want = target.get(holder.node, frozenset())
        keep: set[ExpertKey] = set()
        has = holder.ready | holder.held
        for key in sorted(has - want):
            if arrived[key] and arrived[key] == len(wanted_by[key]):
                sure[key] -= key in holder.ready
            else:
                keep.add(key)
        over = sum(sizes[key] for key in want | keep) - holder.memory_bytes
        for key in sorted(keep):
            served = key in holder.ready
            if over > 0 and sure[key] > served:
                sure[key] -= served
                keep.remove(key)
                over -= sizes[key]
        waiting = urgency.order(holder.node, want - has)
        while over > 0 and waiting:
            over -= sizes[waiting.pop()]
        assignments[holder.node] = (*waiting, *sorted((want & has) | keep))
    return assignments


class _Urgency:
    """Which experts to fetch first: those without a host, each first on one of the nodes that shall have it."""

    def __init__(
        self, sure: Mapping[ExpertKey, int], wanted_by: Mapping[ExpertKey, Sequence[NodeId]]
    ) -> None:
        self._covered = frozenset(key for key, count in sure.items() if count)
        self._wanted_by = wanted_by

    def order(self, node: NodeId, keys: frozenset[ExpertKey]) -> list[ExpertKey]:
        """The keys, most urgent first."""
        return sorted(keys, key=lambda key: (key in self._covered, self._turn(node, key), key))

    def _turn(self, node: NodeId, key: ExpertKey) -> int:
        nodes = self._wanted_by[key]
        return (nodes.index(node) + key.layer + key.expert) % len(nodes)
