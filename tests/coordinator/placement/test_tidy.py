"""Tidying: experts that work together come together, by as many moves as are allowed, and nothing is lost by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.snapshot import NodeCapacity, Target, Traffic
from folkmoot.ids import ExpertKey, NodeId

SIZE = 100


def families(experts: int, size: int) -> Traffic:
    """Experts that fire in families: each works with its own family alone."""
    pairs = np.zeros((experts, experts), np.float32)
    order = Random(1).sample(range(experts), experts)
    for start in range(0, experts, size):
        family = order[start : start + size]
        pairs[np.ix_(family, family)] = 100
    return Traffic({0: np.full(experts, 100, np.float32)}, {0: pairs})


def company(target: Target, traffic: Traffic) -> float:
    """Pairs of experts that work together and are on one node."""
    total = 0.0
    for keys in target.values():
        numbers = [key.expert for key in keys]
        total += float(traffic.together[0][np.ix_(numbers, numbers)].sum()) / 100 - len(numbers)
    return total / 2


@given(st.integers(4, 8), st.integers(2, 12), st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_company_grows_within_what_is_allowed(count: int, many: int, allowed: int, seed: int) -> None:
    experts = 4 * many
    sizes = {ExpertKey(0, expert): SIZE for expert in range(experts)}
    random = Random(seed)
    nodes = [
        NodeCapacity(NodeId(f"{index:064x}"), experts * SIZE, owner=f"owner {random.randrange(4)}")
        for index in range(count)
    ]
    traffic = families(experts, 4)
    blind = place(nodes, sizes)
    before = [replace(node, holds=blind[node.node]) for node in nodes]
    after = place(before, sizes, traffic=traffic, tidy_moves=allowed)
    moved = sum(len(after[node] - blind[node]) for node in after)
    assert moved <= allowed
    assert company(after, traffic) >= company(blind, traffic)
    assert Counter(key for keys in after.values() for key in keys) == Counter(
        key for keys in blind.values() for key in keys
    )
    owners = {node.node: node.owner for node in nodes}
    for key in sizes:
        assert len({owners[node] for node in after if key in after[node]}) >= len(
            {owners[node] for node in blind if key in blind[node]}
        )


def test_families_find_each_other_and_then_stay() -> None:
    sizes = {ExpertKey(0, expert): SIZE for expert in range(32)}
    nodes = [NodeCapacity(NodeId(f"{index:064x}"), 32 * SIZE) for index in range(8)]
    traffic = families(32, 4)
    target = place(nodes, sizes)
    begin = company(target, traffic)
    for _ in range(200):
        before = [replace(node, holds=target[node.node]) for node in nodes]
        tidied = place(before, sizes, traffic=traffic, tidy_moves=4)
        if tidied == target:
            break
        target = tidied
    else:
        raise AssertionError("tidying does not end")
    # 64 copies in families of four: 96 pairs when every family is together twice.
    assert company(target, traffic) >= max(2.5 * begin, 60)


def test_a_fresh_plan_puts_families_together() -> None:
    sizes = {ExpertKey(0, expert): SIZE for expert in range(32)}
    nodes = [NodeCapacity(NodeId(f"{index:064x}"), 32 * SIZE) for index in range(8)]
    traffic = families(32, 4)
    assert (
        company(place(nodes, sizes, traffic=traffic), traffic)
        >= 80
        > 3 * company(place(nodes, sizes), traffic)
    )
