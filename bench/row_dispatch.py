"""Rows sent to a placement's nodes one by one, as dispatch would send them, and what becomes of the nodes.

Guarantees: replicas are chosen by dispatch's own `choose`, which knows what dispatch knows: each node's round trip, its speed, and the work that it
has not finished. Rows come evenly in time, layers in random order, as from many streams at once; how close together is an argument.

Letters: N nodes, L layers, R rows, K experts of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..coordinator.dispatch.choice import HostEstimate, choose
from ..coordinator.placement.snapshot import NodeCapacity, Target
from ..ids import ExpertKey
from .routed_rows import Routed

FRAME_COST_S = 0.001
WARMING_UP = 0.5
"""The first half of the rows is not counted: nodes have no work out when it begins."""


@dataclass(frozen=True)
class Dispatched:
    """What became of the rows.

    Attributes:
        nodes_per_row: Nodes that computed for one row of one layer, on average.
        busy_s: [N] how long each node worked.
    """

    nodes_per_row: float
    busy_s: npt.NDArray[np.float64]

    @property
    def max_over_mean_load(self) -> float:
        """The time that the busiest node worked, over the mean of all."""
        return float(self.busy_s.max() / self.busy_s.mean())


def dispatch(
    nodes: Sequence[NodeCapacity],
    target: Target,
    sizes: Mapping[ExpertKey, int],
    rows: Sequence[Routed],
    layers: Sequence[int],
    *,
    utilisation: float,
    seed: int,
) -> Dispatched:
    """Sends each row of each layer.

    Args:
        nodes: All nodes, with their measured speeds.
        target: Who holds what.
        sizes: Bytes of each expert.
        rows: For each layer [R, K] the experts of each row.
        layers: The layers' numbers.
        utilisation: How much of all nodes' speed is asked for.
        seed: Of the order in which rows and layers come.
    """
    slowness = [1 / (node.bytes_per_second or 1.0) for node in nodes]
    holders: dict[ExpertKey, list[int]] = {key: [] for key in sizes}
    for index, node in enumerate(nodes):
        for key in target[node.node]:
            holders[key].append(index)
    row_bytes = np.mean([sizes[ExpertKey(layer, 0)] for layer in layers]) * rows[0].shape[1]
    pause_s = float(row_bytes) / sum(1 / slow for slow in slowness) / utilisation
    free_at_s = [0.0] * len(nodes)
    busy_s = np.zeros(len(nodes))
    used = counted_rows = 0
    order = np.random.default_rng(seed).permutation(len(layers) * len(rows[0])).tolist()
    for turn, place in enumerate(order):
        now_s = turn * pause_s
        layer, row = place % len(layers), place // len(layers)
        keys = [ExpertKey(layers[layer], expert) for expert in rows[layer][row].tolist()]
        hosts = sorted({index for key in keys for index in holders[key]})
        place_of = {index: place for place, index in enumerate(hosts)}
        chosen = choose(
            [float(sizes[key]) for key in keys],
            [[place_of[index] for index in holders[key]] for key in keys],
            [
                HostEstimate(nodes[index].round_trip_s + max(free_at_s[index] - now_s, 0.0), slowness[index])
                for index in hosts
            ],
            FRAME_COST_S,
            layer,
        )
        counted = turn >= len(order) * WARMING_UP
        counted_rows += counted
        used += len(set(chosen)) * counted
        for key, place in zip(keys, chosen, strict=True):
            index = hosts[place]
            work_s = sizes[key] * slowness[index]
            free_at_s[index] = max(free_at_s[index], now_s) + work_s
            busy_s[index] += work_s * counted
    return Dispatched(used / counted_rows, busy_s)
