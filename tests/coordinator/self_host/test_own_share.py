"""What the coordinator hosts itself: the hottest experts that fit, whole layers where they belong together; nodes have the rest, and
second copies of what it has; nothing moves without a reason."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.snapshot import NodeCapacity, OwnCapacity, Target, Traffic
from folkmoot.coordinator.placement.transition import Holder, next_assignments
from folkmoot.ids import ExpertKey, NodeId

OWN = NodeId("f" * 64)
SIZE = 10


def model(layers: int, experts: int) -> dict[ExpertKey, int]:
    return {ExpertKey(layer, expert): SIZE for layer in range(layers) for expert in range(experts)}


def nodes(*memories: int, held: Target | None = None) -> list[NodeCapacity]:
    names = [NodeId(f"{index:064x}") for index in range(len(memories))]
    return [
        NodeCapacity(name, memory, (held or {}).get(name, frozenset()))
        for name, memory in zip(names, memories, strict=True)
    ]


def traffic(*layers: list[float]) -> Traffic:
    return Traffic({layer: np.array(rows, np.float32) for layer, rows in enumerate(layers)})


def test_it_has_the_hottest_of_all_layers() -> None:
    target = place(
        [], model(2, 4), traffic=traffic([1, 40, 30, 1], [50, 1, 1, 1]), own=OwnCapacity(OWN, 3 * SIZE)
    )
    assert target == {OWN: {ExpertKey(1, 0), ExpertKey(0, 1), ExpertKey(0, 2)}}


def test_without_traffic_it_has_whole_layers() -> None:
    assert place([], model(3, 4), own=OwnCapacity(OWN, 4 * SIZE)) == {
        OWN: {ExpertKey(0, expert) for expert in range(4)}
    }


def test_of_a_sliced_model_it_has_whole_layers_and_what_else_fits() -> None:
    held = frozenset(ExpertKey(1, expert) for expert in range(4))
    target = place([], model(3, 4), layers_together=True, own=OwnCapacity(OWN, 5 * SIZE, held))
    assert target[OWN] == held | {ExpertKey(0, 0)}


def test_another_expert_must_be_clearly_hotter() -> None:
    own = OwnCapacity(OWN, SIZE, frozenset({ExpertKey(0, 0)}))
    assert place([], model(1, 2), traffic=traffic([10, 14]), own=own)[OWN] == {ExpertKey(0, 0)}
    assert place([], model(1, 2), traffic=traffic([10, 16]), own=own)[OWN] == {ExpertKey(0, 1)}


def test_what_it_refused_goes_to_nodes() -> None:
    refused = frozenset({ExpertKey(0, 1)})
    own = OwnCapacity(OWN, 100 * SIZE, refused=refused)
    target = place(nodes(SIZE), model(1, 4), own=own)
    assert target[OWN] == set(model(1, 4)) - refused
    assert target[NodeId("0" * 64)] == refused


def test_nothing_is_given_where_there_is_nothing() -> None:
    assert place([], {}, own=OwnCapacity(OWN, SIZE)) == {OWN: frozenset()}


@given(
    st.integers(1, 4),
    st.integers(1, 8),
    st.lists(st.integers(0, 400), max_size=5),
    st.integers(0, 400),
    st.booleans(),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200)
def test_memory_coverage_replicas_and_rest(
    layers: int,
    experts: int,
    memories: list[int],
    memory: int,
    sliced: bool,
    replicas: int,
    random: object,
) -> None:
    sizes = model(layers, experts)
    heat = traffic(*([random.random() ** 3 + 0.01 for _ in range(experts)] for _ in range(layers)))  # type: ignore[attr-defined]
    held: Target = {
        node.node: frozenset(key for key in sizes if random.random() < 0.3)  # type: ignore[attr-defined]
        for node in nodes(*memories)
    }

    def placed(held: Target) -> Target:
        own = OwnCapacity(OWN, memory, held.get(OWN, frozenset()))
        return place(
            nodes(*memories, held=held),
            sizes,
            replicas=replicas,
            layers_together=sliced,
            traffic=None if sliced else heat,
            own=own,
        )

    target = placed(held)
    assert len(target[OWN]) * SIZE <= memory
    for capacity in nodes(*memories):
        assert len(target[capacity.node]) * SIZE <= capacity.memory_bytes
    copies = Counter(key for keys in target.values() for key in keys)
    slots = [min(room // SIZE, len(sizes)) for room in [*memories, memory]]
    assert len(copies) == min(len(sizes), sum(slots)), "everything that can be hosted is"
    if sum(slots) >= len(sizes) * 2 and replicas == 2 and len([slot for slot in slots if slot]) > 1:
        possible = sum(slots) - max(slots) >= len(sizes)
        assert not possible or min(copies.values()) >= 2, "two replicas, the coordinator's own being one"
    assert len(target[OWN]) == slots[-1], "its memory is used as far as it goes"
    assert placed(target) == target


@pytest.mark.parametrize("sliced", [True, False])
def test_coverage_holds_while_what_it_has_changes(sliced: bool) -> None:
    """What it lets go is on a node before; step by step, as nodes report."""
    sizes = model(2, 6)
    memory = 6 * SIZE
    there = nodes(memory, memory)
    hot, cold = [9.0] * 3 + [1.0] * 3, [1.0] * 3 + [9.0] * 3
    ready = place(
        there,
        sizes,
        replicas=1,
        layers_together=sliced,
        traffic=traffic(hot, hot),
        own=OwnCapacity(OWN, memory),
    )
    for _ in range(20):
        target = place(
            [NodeCapacity(node.node, node.memory_bytes, ready[node.node]) for node in there],
            sizes,
            replicas=1,
            layers_together=sliced,
            traffic=traffic(cold, cold),
            own=OwnCapacity(OWN, memory, ready[OWN]),
        )
        told = next_assignments(target, [Holder(node, memory, keys) for node, keys in ready.items()], sizes)
        kept = {node: ready[node] & frozenset(keys) for node, keys in told.items()}
        assert frozenset().union(*kept.values()) == frozenset(sizes), "before anything new has arrived"
        assert all(len(keys) * SIZE <= memory for keys in told.values())
        if ready == {node: frozenset(keys) for node, keys in told.items()}:
            break
        ready = {node: frozenset(keys) for node, keys in told.items()}
    assert ready == target
