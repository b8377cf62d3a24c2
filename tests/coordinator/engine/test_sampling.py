"""Sampling: filters as transformers defines them, frequencies as the probabilities say, and choices that depend on nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.engine.sampling import Choice, Draw, choose, uniform

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_k": 1},
    {"top_p": 0.6},
    {"top_p": 0.01},
    {"top_p": 0.9999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 8, "top_p": 0.7},
    {"top_k": 20, "min_p": 0.1, "temperature": 1.5},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.05, "temperature": 0.8},
]


def warped(logits: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    """The probabilities that transformers would sample from: [V]."""
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    empty = torch.zeros(1, 0, dtype=torch.int64)
    scores: torch.Tensor = LogitsProcessorList(warpers)(empty, logits[None])
    return scores[0].double().softmax(-1)


def tokens(choices: list[Choice | None]) -> list[int]:
    assert all(choice is not None for choice in choices)
    return [choice.token_id for choice in choices if choice is not None]


@pytest.mark.parametrize("vocabulary", [50, 768])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_frequencies_are_the_probabilities_of_what_the_filters_keep(
    filters: dict[str, Any], vocabulary: int
) -> None:
    sampling = SamplingParams(**filters)
    logits = 2 * torch.randn(vocabulary)
    wanted = warped(logits, sampling)
    count = 4000
    chosen = tokens(choose(logits.expand(count, -1), [Draw(sampling, 7, place) for place in range(count)]))
    found = torch.bincount(torch.tensor(chosen), minlength=vocabulary).double()
    assert not found[wanted == 0].any(), "a token was chosen that the filters drop"
    # Pearson's statistic over tokens that are expected often enough; 6 sigma above its mean.
    often = wanted * count >= 5
    statistic = float((((found - wanted * count) ** 2) / (wanted * count))[often].sum())
    freedom = int(often.sum())
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def test_a_flat_nucleus_is_found_among_all_tokens() -> None:
    logits = torch.linspace(1, 0, 1024)
    sampling = SamplingParams(top_p=0.9)
    wanted = warped(logits, sampling)
    chosen = tokens(choose(logits.expand(3000, -1), [Draw(sampling, 3, place) for place in range(3000)]))
    assert max(chosen) > 768
    assert all(wanted[token] > 0 for token in chosen)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.7}, {"top_k": 9, "min_p": 0.01}], ids=str)
def test_a_choice_does_not_depend_on_the_rows_beside_it(filters: dict[str, Any]) -> None:
    logits = torch.randn(40, 300)
    draws = [Draw(SamplingParams(**filters), row, row * 3) for row in range(40)]
    together = tokens(choose(logits, draws))
    alone = [tokens(choose(logits[row : row + 1], [draws[row]]))[0] for row in range(40)]
    mixed = tokens(choose(logits.repeat(2, 1), [*(Draw(SamplingParams(), 1, 1) for _ in draws), *draws]))
    assert together == alone == mixed[40:]


def test_rounding_that_swaps_near_ties_does_not_swap_choices() -> None:
    logits = torch.zeros(200)
    nudged = logits + 1e-7 * torch.randn(200)
    draws = [Draw(SamplingParams(), 5, place) for place in range(300)]
    plain = tokens(choose(logits.expand(300, -1), draws))
    moved = tokens(choose(nudged.expand(300, -1), draws))
    assert sum(a != b for a, b in zip(plain, moved, strict=True)) <= 1


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.randn(20, 100)
    greedy = Draw(SamplingParams(temperature=0, top_p=0.5, seed=1), 1, 0)
    assert tokens(choose(logits, [greedy] * 20)) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-300])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float) -> None:
    logits = 50 * torch.randn(20, 100)
    draws = [Draw(SamplingParams(temperature=temperature), 0, place) for place in range(20)]
    assert tokens(choose(logits, draws)) == logits.argmax(-1).tolist()


def test_tokens_that_tie_with_the_last_kept_are_kept() -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0])
    draws = [Draw(SamplingParams(top_k=2), 0, place) for place in range(200)]
    assert set(tokens(choose(logits.expand(200, -1), draws))) == {1, 2, 3}


def test_impossible_tokens_are_never_chosen() -> None:
    logits = torch.full((500, 6), -math.inf)
    logits[:, 2], logits[:, 4] = 0.0, -1.0
    draws = [Draw(SamplingParams(), 0, place) for place in range(500)]
    assert set(tokens(choose(logits, draws))) == {2, 4}


def test_rows_that_are_no_numbers_are_named_and_harm_no_other() -> None:
    logits = torch.randn(4, 30)
    logits[1, 7] = math.nan
    logits[2] = math.inf
    logits[3] = -math.inf
    draws = [Draw(SamplingParams(temperature=0.5), 0, 0), *[Draw(SamplingParams(temperature=0), 0, 0)] * 3]
    choices = choose(logits, draws)
    assert choices[1:] == [None, None, None]
    assert tokens(choices[:1]) == tokens(choose(logits[:1], draws[:1]))


def test_log_probabilities_are_of_the_unscaled_logits() -> None:
    logits = torch.randn(1, 40)
    (choice,) = choose(logits, [Draw(SamplingParams(temperature=0.3, top_k=3, logprobs=5), 0, 0)])
    wanted = logits[0].log_softmax(-1)
    assert choice is not None
    assert choice.logprob == pytest.approx(float(wanted[choice.token_id]), abs=1e-6)
    best = wanted.topk(5)
    assert [token for token, _ in choice.top] == best.indices.tolist()
    assert [value for _, value in choice.top] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_numbers_are_fixed_by_seed_and_place_and_spread_evenly() -> None:
    numbers = torch.tensor([[uniform(seed, place) for place in range(200)] for seed in range(-20, 20)])
    assert len(set(numbers.flatten().tolist())) == numbers.numel()
    assert 0 <= float(numbers.min()) < 0.01
    assert 0.99 < float(numbers.max()) < 1
    assert abs(float(numbers.mean()) - 0.5) < 0.02
    assert uniform(1, 2) == uniform(1, 2)
    # A fixed value: a change of the generator would change every user's seeded answers.
    assert uniform(1234, 5) == 0.6724641491614274
