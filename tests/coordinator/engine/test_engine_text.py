"""What an answer's text is and where it ends: seeds, stop strings, end tokens, lengths."""

from __future__ import annotations

from typing import Any

import pytest

from folkmoot.coordinator.engine.requests import Delta, SamplingParams
from folkmoot.tests.support.engine_bench import PATIENCE_S, EngineBench, greedy, prompt


def seeded(seed: int | None = 11, **others: Any) -> SamplingParams:
    """Random tokens, none of which end the answer."""
    fields: dict[str, Any] = {"temperature": 1.0, "max_tokens": 40, "ignore_eos": True, "seed": seed}
    return SamplingParams(**(fields | others))


def alone(bench: EngineBench, sampling: SamplingParams) -> Delta:
    return bench.engine().submit(prompt(20), sampling).wait(PATIENCE_S)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 12, "min_p": 0.02}], ids=str)
def test_the_same_seed_gives_the_same_tokens_whatever_runs_beside(
    bench: EngineBench, filters: dict[str, Any]
) -> None:
    wanted = alone(bench, seeded(**filters)).token_ids
    engine = bench.engine(max_running=5, prefill_chunk_tokens=11)
    beside = [engine.submit(prompt(10 + number, number), seeded(number)) for number in range(7)]
    again = [engine.submit(prompt(20), seeded(**filters)) for _ in range(2)]
    assert [each.wait(PATIENCE_S).token_ids for each in again] == [wanted] * 2
    for each in beside:
        each.wait(PATIENCE_S)


def test_the_same_seed_gives_the_same_tokens_through_preemptions(bench: EngineBench) -> None:
    wanted = alone(bench, seeded()).token_ids
    engine = bench.engine(pages=14)
    generations = [engine.submit(prompt(20), seeded()) for _ in range(5)]
    assert [each.wait(PATIENCE_S).token_ids for each in generations] == [wanted] * 5
    assert engine.stats().preemptions > 0


def test_other_seeds_and_no_seed_give_other_tokens(bench: EngineBench) -> None:
    engine = bench.engine()
    seeds = [1, 2, None, None, -5]
    generations = [engine.submit(prompt(20), seeded(seed)) for seed in seeds]
    assert len({each.wait(PATIENCE_S).token_ids for each in generations}) == len(seeds)


def test_deltas_end_to_end_are_the_text_of_the_tokens(bench: EngineBench) -> None:
    deltas = list(bench.engine().submit(prompt(20), seeded()).stream(PATIENCE_S))
    tokens = [token for delta in deltas for token in delta.token_ids]
    text = "".join(delta.text for delta in deltas)
    assert len(tokens) == 40
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    wanted = bench.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text.replace("�", "") == wanted.replace("�", "")
    assert all(delta.logprobs is None for delta in deltas)


def printable(bench: EngineBench) -> tuple[SamplingParams, str]:
    """A seeded answer, and its text."""
    sampling = seeded(max_tokens=120)
    return sampling, alone(bench, sampling).text


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_a_stop_string_ends_the_answer_before_it_wherever_tokens_are_cut(
    bench: EngineBench, length: int
) -> None:
    sampling, text = printable(bench)
    middle = len(text) // 2
    stop = text[middle : middle + length]
    answer = alone(bench, seeded(max_tokens=120, stop=("never there", stop)))
    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) <= (sampling.max_tokens or 0)


def test_the_earliest_of_several_stops_counts_and_none_leaks(bench: EngineBench) -> None:
    _, text = printable(bench)
    stops = (text[50:56], text[20:24], text[30:33])
    deltas = list(bench.engine().submit(prompt(20), seeded(max_tokens=120, stop=stops)).stream(PATIENCE_S))
    shown = ""
    for delta in deltas:
        shown += delta.text
        assert not any(stop in shown for stop in stops)
    assert shown == text[: min(text.index(stop) for stop in stops)]


def test_a_stop_that_never_comes_holds_nothing_back_in_the_end(bench: EngineBench) -> None:
    _, text = printable(bench)
    answer = alone(bench, seeded(max_tokens=120, stop=(text[-1] + "never there",)))
    assert (answer.text, answer.finish_reason) == (text, "length")


def test_an_end_token_ends_the_answer_unless_it_is_ignored(bench: EngineBench) -> None:
    (end,) = bench.trunk.spec.eos_ids
    engine = bench.engine()
    hot: dict[str, Any] = {"max_tokens": 120, "temperature": 100.0}
    tried = [(seed, engine.submit(prompt(20), seeded(seed, **hot))) for seed in range(12)]
    tokens = {seed: generation.wait(PATIENCE_S).token_ids for seed, generation in tried}
    seed, free = next((seed, answer) for seed, answer in tokens.items() if end in answer)
    stopped = engine.submit(prompt(20), seeded(seed, **hot, ignore_eos=False)).wait(PATIENCE_S)
    place = free.index(end)
    assert stopped.token_ids == free[: place + 1]
    assert stopped.finish_reason == "stop"
    assert bench.tokenizer.eos_token not in stopped.text


def test_one_token(bench: EngineBench) -> None:
    answer = bench.engine().submit(prompt(9), greedy(1, logprobs=0)).wait(PATIENCE_S)
    assert list(answer.token_ids) == bench.expected(prompt(9), 1)
    assert answer.finish_reason == "length"
    assert answer.logprobs is not None
    (entry,) = answer.logprobs
    assert entry.top == ()
    assert entry.text == entry.bytes.decode(errors="replace")
