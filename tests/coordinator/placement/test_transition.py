"""Make before break, proven by playing random reports against random targets: coverage never shrinks, memory is kept, and
where there is room to move in, everything ends at the target."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.snapshot import NodeCapacity, Target
from folkmoot.coordinator.placement.transition import Holder, next_assignments
from folkmoot.ids import ExpertKey, NodeId

SIZE = 10


def names(count: int) -> list[NodeId]:
    return [NodeId(f"{index:064x}") for index in range(count)]


class Play:
    """Nodes that fetch and drop in random order, as told."""

    def __init__(self, ready: Target, memory: dict[NodeId, int], random: Random) -> None:
        self.ready = {node: set(keys) for node, keys in ready.items()}
        self.told: dict[NodeId, tuple[ExpertKey, ...]] = {}
        self.memory = memory
        self.random = random

    def covered(self) -> set[ExpertKey]:
        return {key for node, keys in self.ready.items() for key in keys}

    def round(self, target: Target, sizes: dict[ExpertKey, int]) -> None:
        holders = [Holder(node, self.memory[node], frozenset(keys)) for node, keys in self.ready.items()]
        self.told = next_assignments(target, holders, sizes)
        for node, keys in self.told.items():
            assert len(keys) == len(set(keys))
            assert sum(sizes[key] for key in keys) <= self.memory[node]
            self.ready[node] &= set(keys)
        for node, keys in self.told.items():
            missing = [key for key in keys if key not in self.ready[node]]
            self.ready[node].update(missing[: self.random.randint(0, 3)])


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 3), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_coverage_never_shrinks_and_the_target_is_reached(
    count: int, experts: int, spare: int, seed: int
) -> None:
    random = Random(seed)
    sizes = {ExpertKey(0, expert): SIZE for expert in range(experts)}
    nodes = names(count)
    slots = max(2 * experts // count + 1, 1) + 1 + spare
    memory = dict.fromkeys(nodes, slots * SIZE)
    begin = {
        node: frozenset(random.sample(sorted(sizes), min(len(sizes), random.randint(0, slots - 1))))
        for node in nodes
    }
    target = place([NodeCapacity(node, (slots - 1) * SIZE) for node in nodes], sizes)
    play = Play(begin, memory, random)
    covered = play.covered()
    for _ in range(400):
        play.round(target, sizes)
        assert play.covered() >= covered
        covered = play.covered()
        if all(frozenset(play.ready[node]) == target[node] for node in nodes):
            return
    raise AssertionError("the target was not reached")


def test_a_holder_drops_only_when_the_others_are_ready() -> None:
    one, two, three = names(3)
    key = ExpertKey(0, 0)
    target = {one: frozenset[ExpertKey](), two: frozenset({key}), three: frozenset({key})}
    sizes = {key: SIZE}

    def told(*ready: NodeId) -> tuple[ExpertKey, ...]:
        holders = [Holder(node, 100, frozenset({key} if node in ready else ())) for node in (one, two, three)]
        return next_assignments(target, holders, sizes)[one]

    assert told(one) == (key,)
    assert told(one, two) == (key,)
    assert told(one, two, three) == ()


def test_two_holders_do_not_both_drop_the_last_copy() -> None:
    one, two, three = names(3)
    key, other = ExpertKey(0, 0), ExpertKey(0, 1)
    target = {one: frozenset({other}), two: frozenset({other}), three: frozenset({key})}
    holders = [
        Holder(one, SIZE, frozenset({key})),
        Holder(two, SIZE, frozenset({key})),
        Holder(three, SIZE, frozenset()),
    ]
    told = next_assignments(target, holders, {key: SIZE, other: SIZE})
    assert sum(key in told[node] for node in (one, two)) == 1


def test_what_nobody_has_is_fetched_first_and_shared_out() -> None:
    one, two = names(2)
    keys = [ExpertKey(layer, expert) for layer in range(2) for expert in range(6)]
    target = {one: frozenset(keys), two: frozenset(keys)}
    sizes = dict.fromkeys(keys, SIZE)
    told = next_assignments(target, [Holder(one, 10**6, frozenset()), Holder(two, 10**6, frozenset())], sizes)
    first_halves = Counter(key for node in (one, two) for key in told[node][:6])
    assert set(first_halves.values()) == {1}, "the first half of each covers the whole model"
    assert sorted(told[one]) == keys
