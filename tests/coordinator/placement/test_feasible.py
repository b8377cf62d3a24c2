"""What can be placed is placed: whenever some plan exists with a tenth to spare, every expert has its replicas, apart where they can be."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.snapshot import NodeCapacity, Target
from folkmoot.ids import ExpertKey, NodeId

SIZE = 100


def names(count: int) -> list[NodeId]:
    return [NodeId(f"{index:064x}") for index in range(count)]


def copies(target: Target) -> Counter[ExpertKey]:
    return Counter(key for keys in target.values() for key in keys)


def owners_of(nodes: list[NodeCapacity], target: Target) -> dict[ExpertKey, set[str]]:
    found: dict[ExpertKey, set[str]] = {}
    for node in nodes:
        for key in target[node.node]:
            found.setdefault(key, set()).add(node.owner or node.node)
    return found


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=2, max_size=12),
    st.integers(0, 10**9),
)
@settings(max_examples=250, deadline=None)
def test_replicas_are_on_different_owners_whenever_memory_allows_it(
    layers: int, experts: int, lent: list[tuple[int, int]], seed: int
) -> None:
    random = Random(seed)
    sizes = {ExpertKey(layer, expert): SIZE for layer in range(layers) for expert in range(experts)}
    nodes = [
        NodeCapacity(
            name,
            slots * SIZE + random.randrange(SIZE),
            frozenset(key for key in sizes if random.random() < 0.2),
            owner=f"owner {owner}",
        )
        for name, (slots, owner) in zip(names(len(lent)), lent, strict=True)
    ]
    by_owner: Counter[int] = Counter()
    for slots, owner in lent:
        by_owner[owner] += slots
    target = place(nodes, sizes)
    whole = sum(min(slots, len(sizes)) for slots in by_owner.values())
    if whole >= 2 * len(sizes):
        assert all(len(owners) >= 2 for owners in owners_of(nodes, target).values())
    if sum(by_owner.values()) >= len(sizes):
        assert set(copies(target)) == set(sizes)


@given(
    st.lists(st.integers(6, 14), min_size=2, max_size=4),
    st.integers(3, 5),
    st.booleans(),
    st.integers(0, 10**9),
)
@settings(max_examples=250, deadline=None)
def test_layers_of_different_sizes_are_placed_where_a_plan_with_a_tenth_to_spare_exists(
    experts: list[int], count: int, moved_in: bool, seed: int
) -> None:
    random = Random(seed)
    sizes = {
        ExpertKey(layer, expert): size
        for layer, many in enumerate(experts)
        for size in [random.choice([70, 100, 130])]
        for expert in range(many)
    }
    used = Counter[NodeId]()
    for key in sizes:
        for name in random.sample(names(count), 2):
            used[name] += sizes[key]
    nodes = [
        NodeCapacity(
            name,
            -(-used[name] * 11 // 10),
            frozenset(key for key in sizes if random.random() < 0.3) if moved_in else frozenset(),
        )
        for name in names(count)
    ]
    target = place(nodes, sizes)
    for node in nodes:
        assert sum(sizes[key] for key in target[node.node]) <= node.memory_bytes
    assert all(copies(target)[key] >= 2 for key in sizes)
