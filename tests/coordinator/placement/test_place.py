"""Placement, proven over random networks: memory is kept, coverage comes first, replicas are on different nodes, loads are
even, and what is well placed stays where it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.shares import fair_shares
from folkmoot.coordinator.placement.snapshot import NodeCapacity, Target
from folkmoot.ids import ExpertKey, NodeId

SIZE = 100


def model(layers: int, experts: int, size: int = SIZE) -> dict[ExpertKey, int]:
    return {ExpertKey(layer, expert): size for layer in range(layers) for expert in range(experts)}


def nodes(*memories: int, held: Target | None = None) -> list[NodeCapacity]:
    names = [NodeId(f"{index:064x}") for index in range(len(memories))]
    return [
        NodeCapacity(name, memory, (held or {}).get(name, frozenset()))
        for name, memory in zip(names, memories, strict=True)
    ]


def replicas_of(target: Target) -> Counter[ExpertKey]:
    return Counter(key for keys in target.values() for key in keys)


def moved(before: Target, after: Target) -> int:
    return sum(len(after[node] - before.get(node, frozenset())) for node in after)


networks = st.tuples(
    st.integers(1, 5),
    st.integers(1, 6),
    st.lists(st.integers(0, 4000), min_size=1, max_size=6),
)


@given(networks, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_memory_coverage_and_replicas(
    network: tuple[int, int, list[int]], replicas: int, random: object
) -> None:
    layers, experts, memories = network
    sizes = model(layers, experts)
    held = {
        node.node: frozenset(key for key in sizes if random.random() < 0.3)  # type: ignore[attr-defined]
        for node in nodes(*memories)
    }
    there = nodes(*memories, held=held)
    target = place(there, sizes, replicas=replicas)
    for node in there:
        assert sum(sizes[key] for key in target[node.node]) <= node.memory_bytes
    counts = replicas_of(target)
    slots = [min(memory // SIZE, len(sizes)) for memory in memories]
    assert len(counts) == min(len(sizes), sum(slots))
    assert all(count <= replicas for count in counts.values())
    if replicas <= 2 and sum(slots) >= replicas * len(sizes):
        assert all(counts[key] == replicas for key in sizes), "memory suffices for every replica"


@given(networks)
@settings(max_examples=100, deadline=None)
def test_a_target_is_its_own_target(network: tuple[int, int, list[int]]) -> None:
    layers, experts, memories = network
    sizes = model(layers, experts)
    first = place(nodes(*memories), sizes)
    assert place(nodes(*memories, held=first), sizes) == first


@given(networks)
@settings(max_examples=50, deadline=None)
def test_the_order_of_nodes_does_not_matter(network: tuple[int, int, list[int]]) -> None:
    layers, experts, memories = network
    there = nodes(*memories)
    assert place(there, model(layers, experts)) == place(there[::-1], model(layers, experts))


@given(st.lists(st.integers(10, 2000), min_size=3, max_size=8), st.integers(20, 60))
@settings(max_examples=100, deadline=None)
def test_loads_follow_memory(memories: list[int], experts: int) -> None:
    memories = [memory * SIZE for memory in memories]
    sizes = model(1, experts)
    assume(sum(min(memory, SIZE * experts) for memory in memories) >= 2 * SIZE * experts)
    target = place(nodes(*memories), sizes)
    caps = np.minimum(memories, SIZE * experts).astype(np.float64)
    shares = fair_shares(caps, np.array(memories, np.float64), 2.0 * SIZE * experts)
    for node, share in zip(nodes(*memories), shares, strict=True):
        load = SIZE * len(target[node.node])
        assert abs(load - share) <= 0.06 * share + 2 * SIZE


@pytest.mark.parametrize("together", [False, True])
def test_a_third_equal_node_ends_with_its_fair_share_and_few_moves(together: bool) -> None:
    sizes = model(30, 4)
    two = place(nodes(10**6, 10**6), sizes, layers_together=together)
    assert all(len(keys) == len(sizes) for keys in two.values())
    three = place(nodes(10**6, 10**6, 10**6, held=two), sizes, layers_together=together)
    assert set(replicas_of(three).values()) == {2}
    for keys in three.values():
        assert abs(len(keys) - 2 * len(sizes) / 3) <= 0.06 * len(sizes)
    assert moved(two, three) == len(three[NodeId(f"{2:064x}")]), "only the newcomer fetches anything"


def test_experts_of_a_layer_are_spread_evenly() -> None:
    target = place(nodes(10**6, 10**6, 10**6), model(8, 12))
    for keys in target.values():
        by_layer = Counter(key.layer for key in keys)
        assert set(by_layer) == set(range(8))
        assert max(by_layer.values()) - min(by_layer.values()) <= 2


def test_layers_of_a_sliced_model_stay_whole() -> None:
    sizes = model(9, 4)
    target = place(nodes(3000, 3000, 3000), sizes, layers_together=True)
    assert set(replicas_of(target).values()) == {2}
    for keys in target.values():
        assert set(Counter(key.layer for key in keys).values()) == {4}


def test_a_layer_that_fits_nowhere_whole_is_split() -> None:
    target = place(nodes(250, 250, 250, 250), model(2, 4), layers_together=True)
    assert len(replicas_of(target)) == 8


def test_a_lost_node_is_replaced_and_its_return_restores_what_was() -> None:
    sizes = model(4, 6)
    three = place(nodes(10**6, 10**6, 10**6), sizes)
    names = list(three)
    survivors = [node for node in nodes(10**6, 10**6, 10**6, held=three) if node.node != names[1]]
    two = place(survivors, sizes)
    assert set(replicas_of(two).values()) == {2}
    back = place(nodes(10**6, 10**6, 10**6, held={**two, names[1]: three[names[1]]}), sizes)
    assert back[names[1]] == three[names[1]]
    assert moved({**two, names[1]: three[names[1]]}, back) == 0


def test_an_uncovered_expert_takes_the_place_of_a_second_replica() -> None:
    sizes = model(1, 4)
    keys = sorted(sizes)
    first, second = (NodeId(f"{index:064x}") for index in range(2))
    held = {first: frozenset(keys[:2]), second: frozenset(keys[:2])}
    target = place(nodes(200, 200, held=held), sizes)
    assert set(replicas_of(target)) == set(keys)


def test_replicas_avoid_one_owner() -> None:
    sizes = model(2, 4)
    there = [
        NodeCapacity(NodeId(f"{index:064x}"), 10**6, owner=owner)
        for index, owner in enumerate(["one", "one", "one", "other"])
    ]
    target = place(there, sizes)
    assert target[there[3].node] == frozenset(sizes), (
        "every expert has a replica outside the owner of three nodes"
    )


def test_no_nodes_and_no_memory() -> None:
    assert place([], model(1, 2)) == {}
    assert place(nodes(0, 50), model(1, 2)) == {node.node: frozenset() for node in nodes(0, 50)}


def newcomer(index: int, memory: int, most_experts: int = 4) -> NodeCapacity:
    return NodeCapacity(NodeId(f"{index:064x}"), memory, most_experts=most_experts)


def test_a_newcomer_gets_few_experts_where_others_host_the_rest() -> None:
    sizes = model(3, 8)
    settled = place(nodes(10**6, 10**6), sizes)
    there = [*nodes(10**6, 10**6, held=settled), newcomer(9, 10**6)]
    target = place(there, sizes)
    assert 1 <= len(target[there[-1].node]) <= 4
    assert set(replicas_of(target).values()) == {2}


def test_coverage_comes_before_caution() -> None:
    sizes = model(3, 8)
    everything = frozenset(sizes)
    alone = place([newcomer(1, 10**6)], sizes)
    assert alone[NodeId(f"{1:064x}")] == everything
    two = place([newcomer(1, 10**6), newcomer(2, 10**6)], sizes)
    assert set(two.values()) == {everything}
    with_a_member = place([*nodes(10**6), newcomer(9, 10**6)], sizes)
    assert set(replicas_of(with_a_member).values()) == {2}


def test_what_a_node_on_probation_holds_it_keeps() -> None:
    sizes = model(1, 12)
    target = place(nodes(10**6, 10**6, 10**6), sizes)
    there = [
        NodeCapacity(node.node, node.memory_bytes, target[node.node], most_experts=2)
        for node in nodes(10**6, 10**6, 10**6)
    ]
    assert place(there, sizes) == target


def test_a_whole_layer_is_not_too_much_for_a_newcomer() -> None:
    sizes = model(6, 8)
    settled = place(nodes(10**6, 10**6), sizes, layers_together=True)
    there = [*nodes(10**6, 10**6, held=settled), newcomer(9, 10**6)]
    target = place(there, sizes, layers_together=True)
    assert len({key.layer for key in target[there[-1].node]}) == 1
    assert len(target[there[-1].node]) == 8


@given(networks, st.lists(st.booleans(), min_size=6, max_size=6), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_caution_never_costs_a_replica(
    network: tuple[int, int, list[int]], new: list[bool], most_experts: int
) -> None:
    layers, experts, memories = network
    sizes = model(layers, experts)
    cautious = [
        NodeCapacity(node.node, node.memory_bytes, most_experts=most_experts if fresh else None)
        for node, fresh in zip(nodes(*memories), new, strict=False)
    ]
    target = place(cautious, sizes)
    assert replicas_of(target) == replicas_of(place(nodes(*memories), sizes))
    held = [
        NodeCapacity(node.node, node.memory_bytes, target[node.node], most_experts=node.most_experts)
        for node in cautious
    ]
    assert place(held, sizes) == target


def test_a_share_follows_measured_speed_as_far_as_memory_goes() -> None:
    sizes = model(4, 30)
    there = [
        NodeCapacity(NodeId(f"{index:064x}"), memory, bytes_per_second=speed)
        for index, (memory, speed) in enumerate([(10**6, 4e9), (10**6, 1e9), (10**6, 1e9), (2000, 4e9)])
    ]
    fast, slow, other, small = (len(keys) for keys in place(there, sizes).values())
    assert fast == 120, "no node has an expert twice"
    assert abs(slow - 50) <= 3
    assert abs(other - 50) <= 3
    assert small == 20


def test_few_layers_wait_for_nodes_that_are_far_away() -> None:
    sizes = model(12, 48)
    there = [
        NodeCapacity(NodeId(f"{index:064x}"), 10**6, round_trip_s=0.2 if index % 6 == 0 else 0.01)
        for index in range(96)
    ]
    target = place(there, sizes)
    waiting = {key.layer for node in there if node.round_trip_s > 0.1 for key in target[node.node]}
    assert len(waiting) <= 4
    assert set(replicas_of(target).values()) == {2}


def test_where_there_are_many_nodes_each_has_much_of_few_layers() -> None:
    sizes = model(12, 48)
    target = place(nodes(*[10**6] * 120), sizes)
    layers_of = [len({key.layer for key in keys}) for keys in target.values()]
    assert max(layers_of) <= 4
    hosts = Counter(layer for keys in target.values() for layer in {key.layer for key in keys})
    assert min(hosts.values()) >= 16, "yet enough nodes share the work of each layer"
