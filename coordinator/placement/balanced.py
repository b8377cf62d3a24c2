"""Who should hold what: a pure function from capacities and present holdings to a target.

Guarantees: no node is given more bytes than it lends, nor an expert twice; every expert that can be hosted is hosted before
any has a second replica; nodes that are to be given few experts get more only when some expert would otherwise have too
few replicas; replicas are on different nodes, and on different owners where there are any; the same arguments
give the same target, and the target itself, taken as the holdings, gives itself back. Where all units are of one size, every
unit gets its replicas whenever the nodes' memory allows it at all.

A unit is what stays together on a node: an expert, or a whole layer of a sliced model. A node's share is its part of all
replicas in proportion to its memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...ids import ExpertKey, NodeId
from .shares import fair_shares
from .table import Unit, UnitTable


@dataclass(frozen=True)
class NodeCapacity:
    """What placement knows of a node.

    Attributes:
        node: Who it is.
        memory_bytes: The most that it may be given.
        holds: What it holds or was told to hold; giving these back to it costs nothing.
        owner: Whose it is; nodes of one owner are not counted on to fail apart. Empty: its own.
        most_experts: The most that it is given beside what it holds, but for one unit, where the others can host all replicas of
            the rest; None for no such limit.
    """

    node: NodeId
    memory_bytes: int
    holds: frozenset[ExpertKey] = frozenset()
    owner: str = ""
    most_experts: int | None = None


Target = dict[NodeId, frozenset[ExpertKey]]


def place(
    nodes: Sequence[NodeCapacity],
    sizes: Mapping[ExpertKey, int],
    *,
    replicas: int = 2,
    layers_together: bool = False,
) -> Target:
    """Decides who should hold what.

    Args:
        nodes: All nodes that may be counted on; their order does not matter.
        sizes: Bytes of each expert of the model.
        replicas: How many nodes should hold each expert.
        layers_together: Whether a layer's experts all work for every token, so that one node should have them all.
    """
    limited = [node for node in nodes if node.most_experts is not None]
    if limited:
        target = _place(nodes, sizes, replicas, layers_together)
        hosts = Counter(key for keys in target.values() for key in keys)
        if all(hosts[key] >= replicas for key in sizes):
            return target
        nodes = [replace(node, most_experts=None) for node in nodes]
    return _place(nodes, sizes, replicas, layers_together)


def _place(
    nodes: Sequence[NodeCapacity], sizes: Mapping[ExpertKey, int], replicas: int, layers_together: bool
) -> Target:
    nodes = sorted(nodes, key=lambda node: node.node)
    singles = [Unit((key,), sizes[key], key.layer) for key in sorted(sizes)]
    if not layers_together:
        return _solve(nodes, singles, replicas, nodes, rebalance=True)
    by_layer: dict[int, list[ExpertKey]] = {}
    for key in sorted(sizes):
        by_layer.setdefault(key.layer, []).append(key)
    whole = [Unit(tuple(keys), sum(sizes[key] for key in keys), 0) for keys in by_layer.values()]
    target = _solve(nodes, whole, replicas, nodes, rebalance=True)
    # Layers that found no node with room for all of them are spread as experts.
    kept = [replace(node, holds=target[node.node]) for node in nodes]
    return _solve(kept, singles, replicas, nodes, rebalance=False)


def _solve(
    nodes: Sequence[NodeCapacity],
    units: Sequence[Unit],
    replicas: int,
    present: Sequence[NodeCapacity],
    *,
    rebalance: bool,
) -> Target:
    """Keeps what can be kept, adds what is missing, and evens out."""
    total = sum(unit.size for unit in units)
    table = UnitTable(
        units,
        [node.memory_bytes for node in nodes],
        fair_shares([node.memory_bytes for node in nodes], total, replicas),
        [node.owner or node.node for node in nodes],
        [_whole_units(units, node.holds) for node in present],
        [
            # What it holds already may stay: moving it would cost downloads, and all that it answers is audited.
            None if node.most_experts is None else max(node.most_experts, len(node.holds))
            for node in nodes
        ],
    )
    for index, node in enumerate(nodes):
        table.keep(index, _whole_units(units, node.holds))
    table.trim(replicas)
    table.cover()
    for wanted in range(2, replicas + 1):
        table.replicate(wanted)
    if rebalance:
        table.rebalance()
    return {
        node.node: frozenset(key for unit in table.held(index) for key in units[unit].keys)
        for index, node in enumerate(nodes)
    }


def _whole_units(units: Sequence[Unit], holds: frozenset[ExpertKey]) -> set[int]:
    if not holds:
        return set()
    return {index for index, unit in enumerate(units) if holds.issuperset(unit.keys)}
