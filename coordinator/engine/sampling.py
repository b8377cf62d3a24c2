"""Which token comes next.

Guarantees: a row's choice depends on its logits, its parameters, its seed and its place in the answer, and on nothing else
that is in the step; greedy rows take the most likely token; filters apply as `SamplingParams` says.

A row's random number is a hash of its seed and its place, so that an answer which is computed again goes on with the same
numbers. It picks from the kept tokens in the order of the vocabulary, so that a last-bit difference between logits that
are nearly equal cannot swap two tokens.

Letters: S rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .requests import SamplingParams

Weights = NDArray[np.float32]
"""Sorting and partitioning are done by numpy, many times faster than by torch."""


@dataclass(frozen=True)
class Draw:
    """What one row wants: its parameters, its seed, and the index of the token in its answer."""

    sampling: SamplingParams
    seed: int
    place: int


@dataclass(frozen=True)
class Choice:
    """A chosen token; log-probabilities where they were asked for.

    Attributes:
        token_id: The token.
        logprob: Its own log-probability.
        top: The most likely tokens and theirs.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1) that is fixed by seed and place: 52 bits of BLAKE2b over both."""
    message = (seed % 2**64).to_bytes(8, "big") + place.to_bytes(8, "big")
    digest = hashlib.blake2b(message, digest_size=8, person=b"folkmoot-sample").digest()
    return (int.from_bytes(digest, "big") >> 12) * 2.0**-52


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice | None]:
    """Chooses one token a row.

    Args:
        logits: [S, V] float32.
        draws: S of them.

    Returns:
        S choices; None for a row whose logits are not numbers.
    """
    greatest, likeliest = logits.max(dim=-1)  # [S] each; a NaN anywhere in a row is its maximum
    return [
        _choose(row, draw, likely, top) if math.isfinite(top) else None
        for row, draw, likely, top in zip(logits, draws, likeliest.tolist(), greatest.tolist(), strict=True)
    ]


def _choose(logits: torch.Tensor, draw: Draw, likeliest: int, greatest: float) -> Choice:
    sampling = draw.sampling
    token = likeliest
    if sampling.temperature > 0:
        # At least what a float can divide by; the likeliest token's weight is 1, so nothing overflows.
        temperature = max(sampling.temperature, torch.finfo(logits.dtype).tiny)
        token = _sample(((logits - greatest) / temperature).exp(), sampling, uniform(draw.seed, draw.place))
    if sampling.logprobs is None:
        return Choice(token)
    row = torch.log_softmax(logits, dim=-1)  # [V]
    best = torch.topk(row, min(sampling.logprobs, row.shape[-1]))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token, float(row[token]), top)


def _sample(weights: torch.Tensor, sampling: SamplingParams, number: float) -> int:
    """The token at `number` (in [0, 1)) of the way through the weights [V] that the filters keep."""
    kept = None
    least = _least_kept(weights.numpy(), sampling)
    if least > 0:
        kept = np.flatnonzero(weights.numpy() >= least)
        weights = weights[torch.from_numpy(kept)]
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    # The first whose cumulative weight is above the number's: one of weight 0 never is.
    place = int(torch.searchsorted(cumulative, number * cumulative[-1], right=True))
    return place if kept is None else int(kept[place])


def _least_kept(weights: Weights, sampling: SamplingParams) -> float:
    """The smallest of the weights [V] that the filters keep, the greatest weight being 1; 0 when they keep all."""
    floor = 0.0
    if 0 < sampling.top_k < weights.size:
        floor = float(np.partition(weights, -sampling.top_k)[-sampling.top_k])
    nucleus = _nucleus(weights, floor, sampling.top_p) if sampling.top_p < 1 else 0.0
    return max(floor, nucleus, sampling.min_p)


def _nucleus(weights: Weights, floor: float, top_p: float) -> float:
    """The smallest of the greatest weights that together have `top_p` of what is not below `floor`.

    Weights below the V-th part of what may be left out cannot be among them: only the others are sorted.
    """
    total = float(weights.sum(where=weights >= floor, dtype=np.float64))
    negligible = (1 - top_p) * total / weights.size * 0.999
    greatest = np.sort(weights[weights >= max(floor, negligible)])[::-1]
    reached = int(np.searchsorted(greatest.cumsum(dtype=np.float64), top_p * total))
    return float(greatest[min(reached, greatest.size - 1)])
