"""The engine answers as transformers' `generate` does, whatever is packed beside a request, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
import torch

from folkmoot.coordinator.engine.engine import Engine
from folkmoot.coordinator.engine.faults import EngineClosedError, OverloadedError, PromptTooLongError
from folkmoot.coordinator.engine.generation import Generation
from folkmoot.coordinator.engine.requests import ParameterError, SamplingParams
from folkmoot.tests.coordinator.engine.conftest import BenchOf
from folkmoot.tests.support.engine_bench import PATIENCE_S, EngineBench, eventually, greedy, prompt
from folkmoot.tests.support.faulty_pool import FaultyPool, PoolFault

LENGTHS = (5, 40, 1, 73, 17, 33, 2, 96)
COUNT = 16


def answers(generations: Sequence[Generation]) -> list[list[int]]:
    return [list(generation.wait(PATIENCE_S).token_ids) for generation in generations]


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss", "llama4_text", "mistral"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_greedy_tokens_are_those_of_generate(bench_of: BenchOf, family: str, chunk: int) -> None:
    bench = bench_of(family)
    engine = bench.engine(prefill_chunk_tokens=chunk)
    prompts = [prompt(length, length) for length in LENGTHS]
    found = answers([engine.submit(ids, greedy(COUNT)) for ids in prompts])
    assert found == [bench.expected(ids, COUNT) for ids in prompts]
    assert engine.stats().pages_used == 0


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("pages", [256, 26], ids=["room for all", "preempting"])
def test_requests_that_come_at_any_time_do_not_touch_each_other(
    bench: EngineBench, lanes: int, pages: int
) -> None:
    """New requests come whenever some others have made a random number of tokens; the first few, together too long for little
    memory, are there before any."""
    engine = bench.engine(lanes=lanes, pages=pages, max_running=6, max_step_tokens=24, started=False)
    chance = random.Random(lanes)
    submitted: list[tuple[list[int], int, Generation]] = []
    for number in range(24, 30):
        submitted.append((prompt(8, number), 60, engine.submit(prompt(8, number), greedy(60))))
    engine.start()
    for number in range(24):
        ids, count = prompt(chance.randint(1, 100), number), chance.randint(1, 40)
        submitted.append((ids, count, engine.submit(ids, greedy(count))))
        seen = chance.randint(0, 6)
        watched = submitted[chance.randrange(len(submitted))][2]
        eventually(lambda seen=seen, watched=watched: watched.ended or watched.completion_tokens >= seen)  # type: ignore[misc]
    for ids, count, generation in submitted:
        assert list(generation.wait(PATIENCE_S).token_ids) == bench.expected(ids, count)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
    assert bool(stats.preemptions) == (pages == 26)
    assert stats.prompt_tokens == sum(len(ids) for ids, _, _ in submitted)
    assert stats.tokens_generated == sum(generation.completion_tokens for _, _, generation in submitted)


def test_a_prompt_as_long_as_memory_is_served(bench: EngineBench) -> None:
    engine = bench.engine(pages=4)
    ids = prompt(31)
    assert (
        answers([engine.submit(ids, greedy(1)), engine.submit(ids, SamplingParams(temperature=0))])
        == [bench.expected(ids, 1)] * 2
    )


def test_an_answer_ends_at_the_end_of_the_context(bench: EngineBench) -> None:
    engine = bench.engine()
    ids = prompt(500)
    answer = engine.submit(ids, SamplingParams(temperature=0, ignore_eos=True)).wait(PATIENCE_S)
    assert (len(answer.token_ids), answer.finish_reason) == (bench.trunk.spec.context_length - 500, "length")


@pytest.mark.parametrize(
    ("length", "max_tokens", "pages", "param", "advice"),
    [
        (512, 1, 256, "prompt", "shorten"),
        (500, 13, 256, "max_tokens", "at most 12"),
        (32, None, 4, "prompt", "shorten"),
        (20, 13, 4, "max_tokens", "at most 12"),
    ],
)
def test_what_can_never_fit_is_refused_with_advice(
    bench: EngineBench, length: int, max_tokens: int | None, pages: int, param: str, advice: str
) -> None:
    engine = bench.engine(pages=pages, started=False)
    with pytest.raises(PromptTooLongError, match=advice) as caught:
        engine.submit(prompt(length), SamplingParams(max_tokens=max_tokens))
    assert caught.value.param == param
    assert engine.stats().waiting == 0


@pytest.mark.parametrize("ids", [[], [1, 272], [-1]])
def test_a_prompt_of_no_tokens_or_wrong_ones_is_refused(bench: EngineBench, ids: list[int]) -> None:
    with pytest.raises(ParameterError) as caught:
        bench.engine(started=False).submit(ids, greedy(1))
    assert caught.value.param == "prompt"


def test_too_many_waiting_requests_are_turned_away_and_told_when_to_come_again(bench: EngineBench) -> None:
    engine = bench.engine(started=False, max_waiting=2, retry_after_s=7.0)
    kept = [engine.submit(prompt(3), greedy(2)) for _ in range(2)]
    with pytest.raises(OverloadedError) as caught:
        engine.submit(prompt(3), greedy(2))
    assert caught.value.retry_after_s == 7.0
    engine.start()
    assert answers(kept) == [bench.expected(prompt(3), 2)] * 2


@pytest.mark.parametrize("lanes", [1, 2])
def test_cancelling_in_the_middle_frees_memory_and_touches_nobody_else(
    bench: EngineBench, lanes: int
) -> None:
    pool = FaultyPool(bench.local)
    engine = bench.engine(pool=pool, lanes=lanes, max_running=3)
    kept = [engine.submit(prompt(20, number), greedy(30)) for number in range(2)]
    dropped = engine.submit(prompt(50), SamplingParams(temperature=0, ignore_eos=True))
    queued = engine.submit(prompt(60), greedy(30))
    next(dropped.stream(PATIENCE_S))  # leaving the iteration cancels
    queued.cancel()
    assert answers(kept) == [bench.expected(prompt(20, number), 30) for number in range(2)]
    eventually(lambda: engine.stats().pages_used == 0)
    assert queued.completion_tokens == 0
    assert dropped.completion_tokens < 400


def test_lanes_step_at_the_same_time(bench: EngineBench) -> None:
    pool = FaultyPool(bench.local)
    pool.fault = PoolFault.HELD
    engine = bench.engine(pool=pool, lanes=2, covered=lambda: True)
    ids = [prompt(20, number) for number in range(2)]
    generations = [engine.submit(each, greedy(6)) for each in ids]
    pool.wait_for_calls(2)  # neither answer has come, and both lanes wait for one
    pool.fault = PoolFault.NONE
    assert answers(generations) == [bench.expected(each, 6) for each in ids]


def test_an_answer_cancelled_within_a_step_leaves_when_the_step_is_over(bench: EngineBench) -> None:
    pool = FaultyPool(bench.local)
    pool.fault = PoolFault.HELD
    engine = bench.engine(pool=pool, covered=lambda: True)
    generation = engine.submit(prompt(20), greedy(30))
    pool.wait_for_calls(1)
    generation.cancel()
    assert engine.stats().pages_used == 3
    pool.fault = PoolFault.NONE
    eventually(lambda: engine.stats().pages_used == 0)
    assert generation.wait(1).token_ids == ()


async def test_two_readers_in_one_event_loop(bench: EngineBench) -> None:
    engine = bench.engine()

    async def read(seed: int) -> list[int]:
        generation = engine.submit(prompt(20, seed), greedy(20))
        return [token async for delta in generation for token in delta.token_ids]

    found = await asyncio.gather(*(read(seed) for seed in range(4)))
    assert found == [bench.expected(prompt(20, seed), 20) for seed in range(4)]


async def test_a_reader_that_leaves_frees_memory(bench: EngineBench) -> None:
    engine = bench.engine()

    async def read() -> None:
        async for _ in engine.submit(prompt(20), SamplingParams(temperature=0, ignore_eos=True)):
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await asyncio.to_thread(eventually, lambda: engine.stats().tokens_generated > 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(eventually, lambda: engine.stats().pages_used == 0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_closing_while_answers_are_made_ends_them_and_the_lanes(bench: EngineBench, lanes: int) -> None:
    engine = bench.engine(lanes=lanes, max_running=2)
    endless = SamplingParams(temperature=0, ignore_eos=True)
    generations = [engine.submit(prompt(20, number), endless) for number in range(5)]
    eventually(lambda: engine.stats().tokens_generated > 3)
    engine.close()
    for generation in generations:
        with pytest.raises(EngineClosedError):
            generation.wait(1)
    assert not any(thread.is_alive() for thread in engine._threads)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
    with pytest.raises(EngineClosedError):
        engine.submit(prompt(3), greedy(1))
    engine.close()


def test_an_engine_that_never_started_can_be_closed(bench: EngineBench) -> None:
    engine = bench.engine(started=False)
    generation = engine.submit(prompt(3), greedy(1))
    engine.close()
    with pytest.raises(EngineClosedError):
        generation.wait(1)


class Witness:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.further: list[float] = []
        self.ends: list[tuple[str, int, int]] = []
        self.steps: list[int] = []

    def first_token(self, seconds: float) -> None:
        self.first.append(seconds)

    def next_token(self, seconds: float) -> None:
        self.further.append(seconds)

    def ended(self, outcome: str, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        assert seconds >= 0
        self.ends.append((outcome, prompt_tokens, completion_tokens))

    def stepped(self, tokens: int, seconds: float) -> None:
        assert seconds > 0
        self.steps.append(tokens)

    def drafted(self, proposed: int, accepted: int) -> None:
        assert 0 <= accepted <= proposed


def test_an_observer_hears_of_every_token_and_every_end_once(bench: EngineBench) -> None:
    witness = Witness()
    engine: Engine = bench.engine(observer=witness, max_draft_tokens=0)
    ids = [prompt(30, number) for number in range(3)]
    answers([engine.submit(each, greedy(5, ignore_eos=True)) for each in ids])
    engine.submit(ids[0], greedy(5)).cancel()
    eventually(lambda: len(witness.ends) == 4)
    engine.close()
    assert sorted(witness.ends)[1:] == [("length", 30, 5)] * 3
    assert sorted(witness.ends)[0][0] == "cancelled"
    made = len(witness.first) + len(witness.further)
    assert len(witness.first) in (3, 4)
    assert made >= 15
    assert sum(witness.steps) >= 3 * (30 + 4)
    assert all(seconds >= 0 for seconds in witness.first + witness.further)


def test_every_step_is_accounted_to_its_answers(bench: EngineBench) -> None:
    engine = bench.engine(max_draft_tokens=0)
    generation = engine.submit(prompt(70), greedy(5, ignore_eos=True))
    generation.wait(PATIENCE_S)
    steps = 3 + 4  # 70 tokens in chunks of 32, and a step for each token but the last
    layers = len(bench.trunk.spec.moe_layers)
    assert generation.tally.layers == steps * layers
    assert generation.tally.retries == steps * layers


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_log_probabilities_are_those_of_transformers(bench_of: BenchOf, family: str) -> None:
    bench = bench_of(family)
    engine = bench.engine(prefill_chunk_tokens=9)
    ids = prompt(40)
    beside = [engine.submit(prompt(30, number), greedy(12)) for number in range(3)]
    answer = engine.submit(ids, greedy(12, logprobs=5, ignore_eos=True)).wait(PATIENCE_S)
    answers(beside)
    wanted = bench.logprobs([*ids, *answer.token_ids])[len(ids) - 1 : -1]
    assert len(answer.token_ids) == 12
    assert answer.logprobs is not None
    assert [entry.token_id for entry in answer.logprobs] == list(answer.token_ids)
    for row, entry in zip(wanted, answer.logprobs, strict=True):
        best = row.topk(5)
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-5)
        assert [other.token_id for other in entry.top] == best.indices.tolist()
        torch.testing.assert_close(
            torch.tensor([other.logprob for other in entry.top]), best.values, atol=1e-5, rtol=0
        )
