"""A step that used a result which its node did not sign is taken again from where it began: answers are what they are without it, whatever
was promised about them."""

from __future__ import annotations

import pytest

from folkmoot.coordinator.engine.delivery import STREAMED, Delivery
from folkmoot.errors import ModelError, UnavailableError
from folkmoot.tests.support.engine_bench import eventually, greedy
from folkmoot.tests.support.village import (
    AUDITED,
    RHYME,
    WHOLE,
    Ask,
    balanced,
    deltas,
    honest,
    serving,
    submit,
)
from folkmoot.tests.support.village_trunk import LIAR, VillageTrunk


@pytest.mark.parametrize(
    "breaks",
    [None, UnavailableError("layer 0 expert 3 has no host"), ModelError("the activations are not finite")],
    ids=["goes on", "finds no host", "overflows"],
)
@pytest.mark.parametrize("drafts", [0, 4])
@pytest.mark.parametrize("delivery", [STREAMED, WHOLE, AUDITED], ids=["streamed", "whole", "audited"])
def test_nothing_comes_of_a_step_that_used_what_its_node_did_not_sign(
    delivery: Delivery, drafts: int, breaks: Exception | None
) -> None:
    trunk = VillageTrunk()
    trunk.breaks = breaks
    trunk.forges, trunk.lies_in = True, lambda number: number in (1, 4)
    ask = Ask(RHYME[:5], greedy(30, ignore_eos=True), delivery)
    (wanted,) = honest([ask])
    with serving(trunk, max_draft_tokens=drafts) as engine:
        (generation,) = submit(engine, [ask])
        assert deltas(generation) == wanted
        assert generation.tally.results_rejected == 2
        assert not generation.suspect_tokens
        assert LIAR not in generation.tally.nodes, "nothing of its results counted"
        eventually(lambda: balanced(engine))
