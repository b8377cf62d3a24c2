"""Placement at the size of DeepSeek-V3: how long it takes, how few nodes a row needs, and how evenly nodes are loaded.

Guarantees: everything comes from seeds; placement knows of traffic only what `Usage` made of other rows than those that are measured;
the random placement that it is compared with gives every expert as many copies, and every node as many experts, as the planned one.
Times are the least of a few runs: other work on the machine only adds to them.

Letters: N nodes, L layers, E experts of a layer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..coordinator.placement.place import place
from ..coordinator.placement.snapshot import NodeCapacity, Target, Traffic
from ..coordinator.placement.usage import MOST_ROWS_OF_A_CALL, Usage
from ..ids import ExpertKey, NodeId
from .routed_rows import RoutedRows
from .row_dispatch import Dispatched, dispatch

UTILISATION = 0.9
"""Of what all nodes together can do: with little to do it is right that the fastest do most of it."""
REPETITIONS = 3


@dataclass(frozen=True)
class Extent:
    """What is measured."""

    layers: int = 58
    experts: int = 256
    top_k: int = 8
    expert_bytes: int = 3 * 7168 * 2048
    nodes: int = 1000
    owners: int = 700
    learnt_rows: int = 4000
    rows: int = 2500
    compared_rows: int = 300
    losses: int = 4
    seed: int = 1


QUICK = Extent(8, 64, 6, 3 << 20, 160, 120, 3000, 600, 150, 2)
MEMORIES = (1, 2, 4, 8)
PART_WITH_MEMORY = (0.40, 0.35, 0.17, 0.08)
MODEL_FITS = 4.0
"""So many times the nodes' memory holds the model."""


@dataclass(frozen=True)
class Report:
    """What was measured; the fields are those of the JSON."""

    plan_s: float
    replan_s: float
    nodes_per_row: float
    nodes_per_row_random: float
    max_over_mean_load: float


def measure(extent: Extent) -> Report:
    """Plans, loses nodes, and sends rows."""
    first_layer = 3 if extent.layers > 3 else 0
    layers = list(range(first_layer, first_layer + extent.layers))
    sizes = {ExpertKey(layer, e): extent.expert_bytes for layer in layers for e in range(extent.experts)}
    router = RoutedRows(extent.layers, extent.experts, extent.top_k, extent.seed)
    traffic = _learnt(sizes, layers, router, extent.learnt_rows)
    nodes = _nodes(extent)
    plan_s, target = _least(lambda: place(nodes, sizes, traffic=traffic))
    held = [replace(node, holds=target[node.node]) for node in nodes]
    largest = max(range(len(held)), key=lambda index: len(held[index].holds))
    lost = {largest, *np.random.default_rng(extent.seed).choice(len(held), extent.losses).tolist()}
    replans_s = []
    for one in sorted(lost):
        others = held[:one] + held[one + 1 :]
        replans_s.append(_least(lambda others=others: place(others, sizes, traffic=traffic))[0])  # type: ignore[misc]
    rows = router.rows(extent.rows, 2)

    def sent(placed: Target, count: int) -> Dispatched:
        some = [part[:count] for part in rows]
        return dispatch(nodes, placed, sizes, some, layers, utilisation=UTILISATION, seed=3)

    planned = sent(target, extent.rows)
    by_chance = sent(_random(nodes, target, sizes, extent.seed), extent.compared_rows)
    return Report(
        plan_s, max(replans_s), planned.nodes_per_row, by_chance.nodes_per_row, planned.max_over_mean_load
    )


def show(report: Report) -> None:
    """Prints what was measured, beside what it should be."""
    ratio = report.nodes_per_row / report.nodes_per_row_random
    print(f"planned in                     {report.plan_s:8.3f} s       (goal 2)")
    print(f"planned anew after a loss in   {report.replan_s:8.3f} s       (goal 0.2)")
    print(f"nodes for a row of a layer     {report.nodes_per_row:8.2f}")
    print(f"the same, placed by chance     {report.nodes_per_row_random:8.2f}")
    print(f"planned / by chance            {ratio:8.2f}         (goal 0.75)")
    print(f"busiest node / mean            {report.max_over_mean_load:8.2f}         (goal 1.25)")


def _learnt(sizes: Mapping[ExpertKey, int], layers: list[int], router: RoutedRows, count: int) -> Traffic:
    usage = Usage(sizes)
    for layer, rows in zip(layers, router.rows(count, 1), strict=True):
        for start in range(0, count, MOST_ROWS_OF_A_CALL):
            usage.note(layer, rows[start : start + MOST_ROWS_OF_A_CALL])
        usage.fold()
    traffic = usage.traffic()
    if traffic is None:
        raise ValueError("too few rows to learn from")
    return traffic


def _nodes(extent: Extent) -> list[NodeCapacity]:
    """Nodes of mixed memory; those with more are faster, though not in proportion, and no two alike; some share an owner."""
    draw = np.random.default_rng(extent.seed)
    parts = draw.choice(MEMORIES, extent.nodes, p=PART_WITH_MEMORY)
    model_bytes = extent.layers * extent.experts * extent.expert_bytes
    memories = parts * (MODEL_FITS * model_bytes / parts.sum())
    speeds = 60e9 * np.sqrt(parts) * np.exp(draw.normal(0, 0.4, extent.nodes))
    owners = draw.integers(0, extent.owners, extent.nodes)
    round_trips_s = 0.005 * np.exp(draw.normal(0, 0.3, extent.nodes))
    return [
        NodeCapacity(
            NodeId(f"{index:064x}"),
            int(memories[index]),
            owner=f"owner {owners[index]}",
            bytes_per_second=float(speeds[index]),
            round_trip_s=float(round_trips_s[index]),
        )
        for index in range(extent.nodes)
    ]


def _random(nodes: list[NodeCapacity], target: Target, sizes: Mapping[ExpertKey, int], seed: int) -> Target:
    """As many copies of each expert, and as many experts on each node, but which is where is left to chance."""
    draw = np.random.default_rng(seed)
    copies = Counter(key for keys in target.values() for key in keys)
    free = np.array([len(target[node.node]) for node in nodes], np.float64)
    given: list[list[ExpertKey]] = [[] for _ in nodes]
    keys = list(sizes)
    for place_of in sorted(draw.permutation(len(keys)).tolist(), key=lambda index: -copies[keys[index]]):
        count = min(copies[keys[place_of]], int((free > 0).sum()))
        for node in draw.choice(len(nodes), count, replace=False, p=free / free.sum()).tolist():
            given[node].append(keys[place_of])
            free[node] -= 1
    return {node.node: frozenset(keys) for node, keys in zip(nodes, given, strict=True)}


def _least(run: Callable[[], Target]) -> tuple[float, Target]:
    """The least time of a few runs, and what came of the last."""
    times, target = [], {}
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        target = run()
        times.append(time.perf_counter() - start)
    return min(times), target
