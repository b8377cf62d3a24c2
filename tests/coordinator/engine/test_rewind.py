"""Answers go back to before a convicted node's results, and audited ones are never handed out before they are known to be right."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.engine.delivery import STREAMED, Delivery
from folkmoot.coordinator.engine.engine import Engine
from folkmoot.coordinator.engine.faults import EngineClosedError, NotAuditedError
from folkmoot.coordinator.engine.kv_memory import token_bytes
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.errors import UnavailableError
from folkmoot.ids import NodeId
from folkmoot.tests.support.engine_bench import PATIENCE_S, eventually, greedy
from folkmoot.tests.support.fingerprint_trunk import ALPHABET
from folkmoot.tests.support.village import (
    AUDITED,
    PAGE,
    RHYME,
    TOKENIZER,
    WHOLE,
    Ask,
    NoPool,
    balanced,
    deltas,
    honest,
    serving,
    submit,
    tokens,
)
from folkmoot.tests.support.village_trunk import LIAR, VillageTrunk

NEVER = -1
"""A patience of the auditor's that ends nothing."""


@st.composite
def asks(draw: st.DrawFn, longest: int) -> Ask:
    """Requests for periodic texts with surprises, none of which is handed out before it can be known to be right."""
    period = draw(st.lists(st.sampled_from(ALPHABET), min_size=1, max_size=6))
    length = draw(st.integers(1, longest // 2))
    sampling = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.0, 0.4, 1.0])),
        seed=draw(st.integers(0, 99)),
        max_tokens=draw(st.one_of(st.none(), st.integers(1, longest - length))),
        stop=tuple(draw(st.lists(st.sampled_from(["dea", "bcdea", "ac", "never"]), max_size=2))),
        logprobs=draw(st.sampled_from([None, None, 2])),
        ignore_eos=draw(st.booleans()),
    )
    ids = [period[place % len(period)] for place in range(length)]
    return Ask(
        ids, sampling, draw(st.sampled_from([AUDITED, AUDITED, Delivery(AUDITED.verification, whole=True)]))
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_audited_answers_are_those_of_a_network_without_the_liar(data: st.DataObject) -> None:
    pages = data.draw(st.sampled_from([10, 14, 60]))
    asked = data.draw(st.lists(asks(longest=pages * PAGE if pages < 24 else 96), min_size=1, max_size=5))
    surprise = data.draw(st.sampled_from([0.0, 0.2, 0.6]))
    wanted = honest(asked, surprise, pages)
    trunk = VillageTrunk(surprise=surprise)
    first, often = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4))
    trunk.lies_in = lambda number: number >= first and number % often == 0
    trunk.lost_at = frozenset(data.draw(st.lists(st.integers(2, 30), max_size=2)))
    trunk.audits.patience = data.draw(st.integers(0, 12))
    trunk.audits.seed = data.draw(st.integers(0, 99))
    chosen = {
        "lanes": data.draw(st.integers(1, 3)),
        "max_draft_tokens": data.draw(st.sampled_from([0, 4])),
        "unaudited_tokens": data.draw(st.sampled_from([1, 5, 32])),
        "unaudited_tokens_in_all": data.draw(st.sampled_from([3, 64])),
    }
    with serving(trunk, pages, **chosen) as engine:
        generations = submit(engine, asked)
        assert [deltas(generation) for generation in generations] == wanted
        assert balanced(engine)
        stats = engine.stats()
        assert stats.tokens_generated == sum(generation.completion_tokens for generation in generations)
        assert not any(generation.suspect_tokens for generation in generations)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_answers_that_are_wanted_whole_are_computed_anew_wherever_the_verdict_falls(
    data: st.DataObject,
) -> None:
    """Beside answers that are streamed, and some whose readers leave; the verdict falls while each answer goes on."""
    asked = [
        Ask(ask.prompt_ids, ask.sampling, WHOLE)
        for ask in data.draw(st.lists(asks(longest=96), min_size=1, max_size=4))
    ]
    wanted = honest(asked)
    trunk = VillageTrunk()
    first = data.draw(st.integers(1, 12))
    trunk.lies_in = lambda number: number >= first
    trunk.convict_at = first + data.draw(st.integers(0, 12))
    chosen = {"lanes": data.draw(st.integers(1, 2)), "max_draft_tokens": data.draw(st.sampled_from([0, 4]))}
    with serving(trunk, **chosen) as engine:
        beside = [engine.submit(RHYME, greedy(30, ignore_eos=True)) for _ in range(2)]
        generations = submit(engine, asked)
        leaver = iter(beside[0].stream(PATIENCE_S))
        next(leaver)
        del leaver
        answers = [deltas(generation) for generation in generations]
        deltas(beside[1])
        eventually(lambda: balanced(engine))
        if trunk.convicted:
            doubted = {entry["id"] for entry in engine.consequences()["last_doubted"]}
            for generation, answer, right in zip(generations, answers, wanted, strict=True):
                assert answer == right or generation.id in doubted
                assert not (generation.rewound and generation.id in doubted)


@pytest.mark.parametrize("drafts", [0, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_was_read_stays_and_the_rest_follows_from_it(drafts: int, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, seed=5, max_tokens=60, ignore_eos=True)
    trunk = VillageTrunk()
    trunk.lies_in = lambda number: number >= 5
    trunk.holds_at = 30
    with serving(trunk, max_draft_tokens=drafts) as engine:
        generation = engine.submit(RHYME, sampling)
        stream = generation.stream(PATIENCE_S)
        read = [next(stream) for _ in range(20)]
        eventually(lambda: trunk.steps == 29)
        trunk.convict()
        trunk.go_on()
        eventually(lambda: generation.rewound)
        answer = tokens(read) + tokens(list(stream))
        assert generation.rewound
        ((first, end),) = generation.suspect_tokens
        assert 0 < first < 20 == end
        assert engine.stats().answers_rewound == 1
        eventually(lambda: balanced(engine))
        prefix = tokens(honest([Ask(RHYME, sampling, STREAMED)])[0])
        assert answer[:first] == prefix[:first]
        if not temperature:
            onwards = engine.submit([*RHYME, *answer[:end]], greedy(60 - end, ignore_eos=True)).wait(
                PATIENCE_S
            )
            assert answer[end:] == list(onwards.token_ids)


def test_only_answers_that_a_liar_had_a_part_in_go_back() -> None:
    """Two answers share steps; one of them was there when the liar was, the other came later."""
    trunk = VillageTrunk(surprise=0.6)
    trunk.lies_in = lambda number: number <= 8
    trunk.holds_at, trunk.convict_at = 9, 30
    trunk.audits.patience = NEVER
    asked = [
        Ask(RHYME, greedy(60, ignore_eos=True), WHOLE),
        Ask(RHYME[:7], greedy(60, ignore_eos=True), WHOLE),
    ]
    wanted = honest(asked, surprise=0.6)
    with serving(trunk, max_draft_tokens=0) as engine:
        (early,) = submit(engine, asked[:1])
        eventually(lambda: trunk.steps == 8)
        (late,) = submit(engine, asked[1:])
        trunk.go_on()
        assert [deltas(early), deltas(late)] == wanted
        assert (early.rewound, late.rewound) == (True, False)
        assert engine.stats().answers_rewound == 1


def test_nothing_is_read_before_its_audits_and_no_more_is_computed_than_may_be() -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = NEVER
    ask = Ask(RHYME, greedy(40, ignore_eos=True), AUDITED)
    with serving(trunk, max_draft_tokens=0, unaudited_tokens=10, prefill_chunk_tokens=20) as engine:
        (generation,) = submit(engine, [ask])
        eventually(lambda: trunk.steps == 1 and len(trunk.audits.waiting) == 1)
        assert trunk.audits.waiting[0].step.rows.sum() == 10
        for _ in range(2):  # the rest of the prompt, and as many tokens as then fit
            trunk.end_audits()
            eventually(lambda: bool(trunk.audits.waiting))
        eventually(lambda: sum(len(audit.step.rows) for audit in trunk.audits.waiting) == 10)
        eventually(lambda: generation.completion_tokens == 7)
        with pytest.raises(TimeoutError):
            next(generation.stream(0.05))


def test_a_verdict_on_a_prompts_first_part_undoes_the_part_that_is_computed_then() -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = NEVER
    trunk.lies_in = lambda number: number == 1
    trunk.holds_at = 2
    ask = Ask(RHYME, greedy(20, ignore_eos=True), AUDITED)
    (wanted,) = honest([ask])
    with serving(trunk) as engine:
        (generation,) = submit(engine, [ask])
        eventually(lambda: trunk.steps == 1 and len(trunk.audits.waiting) == 3)
        trunk.end_audits()
        assert trunk.convicted
        trunk.audits.patience = 0
        trunk.go_on()
        assert deltas(generation) == wanted


@pytest.mark.parametrize("trusting", [0, 1], ids=["before the step ends", "while its tokens are taken in"])
@pytest.mark.parametrize("delivery", [STREAMED, WHOLE, AUDITED], ids=["streamed", "whole", "audited"])
def test_nothing_comes_of_a_step_of_a_node_that_is_trusted_no_more(delivery: Delivery, trusting: int) -> None:
    """The node's standing falls first, and what it had a part in is asked about then: a step may end between the two."""
    trunk = VillageTrunk()
    trunk.lies_in = lambda number: number == 4
    asked_about: list[NodeId] = []

    def trusts(node: NodeId) -> bool:
        if node == LIAR:
            asked_about.append(node)
        return node != LIAR or len(asked_about) <= trusting

    trunk.trusts = trusts  # type: ignore[method-assign]
    trunk.audits.patience = 3
    ask = Ask(RHYME[:5], greedy(30, ignore_eos=True), delivery)
    (wanted,) = honest([ask])
    with serving(trunk, max_draft_tokens=0) as engine:
        (generation,) = submit(engine, [ask])
        if delivery is STREAMED and trusting:
            eventually(lambda: generation.ended)  # nothing is read before it is recalled
        assert deltas(generation) == wanted
        assert asked_about
        assert generation.rewound
        assert not generation.suspect_tokens


def test_a_held_answer_waits_for_its_last_audit_without_pages() -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = NEVER
    ask = Ask(RHYME[:5], greedy(6, ignore_eos=True), AUDITED)
    (wanted,) = honest([ask])
    with serving(trunk) as engine:
        (generation,) = submit(engine, [ask])
        eventually(lambda: generation.completion_tokens == 6)
        eventually(lambda: engine.stats().pages_used == 0)
        assert engine.stats().running == 1
        ended = [generation.ended]
        trunk.end_audits(len(trunk.audits.waiting) - 1)
        ended.append(generation.ended)
        trunk.end_audits()
        assert [*ended, generation.ended] == [False, False, True]
        assert deltas(generation) == wanted
        assert balanced(engine)
        assert generation.audits_passed == trunk.steps


def test_a_held_answer_that_turns_out_wrong_is_computed_again() -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = NEVER
    trunk.lies_in = lambda number: number == 4
    ask = Ask(RHYME[:5], greedy(12, ignore_eos=True), AUDITED)
    (wanted,) = honest([ask])
    with serving(trunk, max_draft_tokens=0) as engine:
        (generation,) = submit(engine, [ask])
        eventually(lambda: generation.completion_tokens == 12 and engine.stats().pages_used == 0)
        trunk.audits.patience = 0
        assert deltas(generation) == wanted
        assert generation.rewound
        assert trunk.convicted


@pytest.mark.parametrize("moment", ["stepping", "waiting for audits", "held"])
def test_readers_may_leave_at_any_time(moment: str) -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = 0 if moment == "stepping" else NEVER
    trunk.lies_in = lambda number: number == 3
    count = 4 if moment == "held" else 60
    with serving(trunk, max_draft_tokens=0, unaudited_tokens=40) as engine:
        generation = engine.submit(RHYME[:5], greedy(count, ignore_eos=True), AUDITED)
        if moment == "held":
            eventually(lambda: generation.completion_tokens == 4 and engine.stats().pages_used == 0)
        elif moment == "waiting for audits":
            eventually(lambda: generation.completion_tokens == 36)
        else:
            eventually(lambda: trunk.convicted)
        generation.cancel()
        eventually(lambda: balanced(engine))
        assert not any(audit.step.wanted for audit in trunk.audits.waiting)
        trunk.convict()
        trunk.end_audits()
        assert balanced(engine)


def test_an_answer_that_cannot_be_audited_fails_and_others_go_on() -> None:
    trunk = VillageTrunk()
    trunk.audits.fails_with = UnavailableError("the disk is gone")
    with serving(trunk) as engine:
        beside = engine.submit(RHYME, greedy(30, ignore_eos=True))
        generation = engine.submit(RHYME, greedy(30), AUDITED)
        with pytest.raises(UnavailableError, match="the disk is gone"):
            generation.wait(PATIENCE_S)
        assert len(tokens(deltas(beside))) == 30
        eventually(lambda: balanced(engine))


@pytest.mark.parametrize("count", [4, 60], ids=["held", "waiting for audits"])
def test_closing_ends_answers_that_wait_for_audits(count: int) -> None:
    trunk = VillageTrunk()
    trunk.audits.patience = NEVER
    with serving(trunk, max_draft_tokens=0) as engine:
        generation = engine.submit(RHYME[:5], greedy(count, ignore_eos=True), AUDITED)
        eventually(lambda: generation.completion_tokens == min(count, 28))
        engine.close()
        with pytest.raises(EngineClosedError):
            generation.wait(1)
        trunk.end_audits()
        assert balanced(engine)


def test_answers_that_had_ended_are_doubted() -> None:
    trunk = VillageTrunk()
    lying = threading.Event()
    lying.set()
    trunk.lies_in = lambda number: lying.is_set()
    with serving(trunk, max_draft_tokens=0) as engine:
        doubted = [engine.submit(RHYME[:5], greedy(3, ignore_eos=True)) for _ in range(2)]
        for generation in doubted:
            generation.wait(PATIENCE_S)
        lying.clear()
        fine = engine.submit(RHYME[:5], greedy(2, ignore_eos=True))
        fine.wait(PATIENCE_S)
        trunk.convict()
        told = engine.consequences()
        assert engine.stats().answers_doubted == told["doubted"] == 2
        assert {generation.id for generation in doubted} == {entry["id"] for entry in told["last_doubted"]}
        assert not fine.tally.nodes & {LIAR}
        assert {entry["node"] for entry in told["last_doubted"]} == {LIAR}
        trunk.convict()
        assert engine.consequences() == told


def test_audits_must_be_on() -> None:
    spec = VillageTrunk().spec
    memory_bytes = 40 * PAGE * sum(token_bytes(cache, spec.dtype) for cache in spec.caches)
    settings = EngineSettings(kv_memory_bytes=memory_bytes, page_tokens=PAGE)
    engine = Engine(VillageTrunk(), NoPool(), TOKENIZER, settings, lambda: True)
    with pytest.raises(NotAuditedError, match="audits nothing") as caught:
        engine.submit(RHYME, greedy(2), AUDITED)
    assert caught.value.param == "folkmoot.verify"
    engine.close()
