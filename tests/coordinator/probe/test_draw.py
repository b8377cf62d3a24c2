"""Which experts a probe asks about."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.probe.draw import SHARE, draw
from folkmoot.ids import ExpertKey

KEYS = st.frozensets(st.builds(ExpertKey, st.integers(0, 5), st.integers(0, 7)), max_size=48)


@given(KEYS.filter(bool), KEYS, KEYS, st.integers(1, 9), st.integers(0, 1 << 30))
def test_what_is_drawn_is_new_bounded_and_of_as_many_layers_as_it_can_be(
    trying: frozenset[ExpertKey],
    proven: frozenset[ExpertKey],
    known: frozenset[ExpertKey],
    most: int,
    seed: int,
) -> None:
    drawn = draw(trying, proven, known, most, random.Random(seed))
    new = trying - proven
    assert len(drawn) == len(set(drawn))
    if not new:
        assert len(drawn) == 1 and trying.issuperset(drawn)
        return
    assert new.issuperset(drawn)
    assert len(drawn) == min(most, -(-len(new) // SHARE))
    layers = {key.layer for key in new}
    assert len({key.layer for key in drawn}) == min(len(layers), len(drawn))


def test_in_a_layer_those_whose_answers_are_at_hand_come_first() -> None:
    trying = [ExpertKey(0, expert) for expert in range(16)]
    known = trying[5:8]
    for seed in range(50):
        assert set(draw(trying, (), known, 3, random.Random(seed))) == set(known)


def test_any_new_expert_may_be_drawn() -> None:
    trying = [ExpertKey(layer, expert) for layer in range(3) for expert in range(4)]
    seen = {key for seed in range(300) for key in draw(trying, (), (), 2, random.Random(seed))}
    assert seen == set(trying)
