"""Which token comes next.

Guarantees: a row's choice depends on its logits, its parameters, its seed and its place in the answer, and on nothing else
that is in the step; greedy rows take the most likely token; filters apply as `SamplingParams` says.

A row's random number is a hash of its seed and its place, so that an answer which is computed again goes on with the same
numbers. It picks from the kept tokens in the order of the vocabulary, so that a last-bit difference between logits that
are nearly equal cannot swap two tokens.

Letters: S rows, V vocabulary, M most likely tokens looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .requests import SamplingParams

LIKELIEST = 256
"""How many tokens are sorted before all of them are: nearly always these hold all that top-p keeps."""


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
    """A number in [0, 1) that is fixed by seed and place: 53 bits of BLAKE2b over both."""
    message = (seed % 2**64).to_bytes(8, "big") + place.to_bytes(8, "big")
    digest = hashlib.blake2b(message, digest_size=8, person=b"folkmoot-sample").digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice | None]:
    """Chooses one token a row.

    Args:
        logits: [S, V] float32.
        draws: S of them.

    Returns:
        S choices; None for a row whose logits are not numbers.
    """
    tokens = logits.argmax(dim=-1)  # [S]
    sound = logits.amax(dim=-1).isfinite()  # [S]; a NaN anywhere in a row is its maximum
    random_rows = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0 and sound[row]]
    if random_rows:
        index = torch.tensor(random_rows)
        tokens[index] = _sample(logits[index], [draws[row] for row in random_rows])
    chosen: list[int] = tokens.tolist()
    return [
        _choice(logits[row], chosen[row], draw.sampling.logprobs) if usable else None
        for row, (draw, usable) in enumerate(zip(draws, sound.tolist(), strict=True))
    ]


def _choice(logits: torch.Tensor, token: int, logprobs: int | None) -> Choice:
    if logprobs is None:
        return Choice(token)
    row = torch.log_softmax(logits, dim=-1)  # [V]
    best = torch.topk(row, min(logprobs, row.shape[-1]))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Choice(token, float(row[token]), top)


def _sample(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """One token for each of S rows with a temperature above 0: [S]."""
    coldest = torch.finfo(logits.dtype).tiny
    temperatures = torch.tensor([[max(coldest, draw.sampling.temperature)] for draw in draws])  # [S, 1]
    # Divided after the maximum is taken off, so that a tiny temperature cannot overflow.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperatures  # [S, V], at most 0
    for row, draw in enumerate(draws):
        least = _least_kept(scaled[row], draw.sampling)
        if least is not None:
            scaled[row].masked_fill_(scaled[row] < least, -math.inf)
    cumulative = scaled.double().exp().cumsum(dim=-1)  # [S, V]
    numbers = torch.tensor([uniform(draw.seed, draw.place) for draw in draws], dtype=torch.float64)
    # The first token whose cumulative weight is above the number's: one of weight 0 never is.
    return torch.searchsorted(cumulative, numbers.unsqueeze(-1) * cumulative[:, -1:], right=True).squeeze(-1)


def _least_kept(scaled: torch.Tensor, sampling: SamplingParams) -> float | None:
    """The smallest scaled logit of a row [V] that its filters keep; None when they keep all."""
    vocabulary = scaled.shape[-1]
    top_k = sampling.top_k if 0 < sampling.top_k < vocabulary else None
    least = math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf
    if top_k is not None or sampling.top_p < 1:
        likeliest = torch.topk(scaled, min(vocabulary, max(LIKELIEST, top_k or 0))).values  # [M], descending
        if top_k is not None:
            least = max(least, float(likeliest[top_k - 1]))
        if sampling.top_p < 1:
            floor = float(likeliest[top_k - 1]) if top_k is not None else -math.inf
            least = max(least, _nucleus(scaled, likeliest, floor, sampling.top_p))
    return None if least == -math.inf else least


def _nucleus(scaled: torch.Tensor, likeliest: torch.Tensor, floor: float, top_p: float) -> float:
    """The smallest scaled logit of the likeliest tokens that together have `top_p` of what is not below `floor`."""
    weights = scaled.double().exp()
    wanted = top_p * float(weights[scaled >= floor].sum())
    cumulative = likeliest.double().exp().cumsum(dim=-1)
    if float(cumulative[-1]) < wanted and likeliest.shape[-1] < scaled.shape[-1]:
        likeliest = scaled.sort(descending=True).values
        cumulative = likeliest.double().exp().cumsum(dim=-1)
    reached = int(torch.searchsorted(cumulative, wanted))
    return float(likeliest[min(reached, likeliest.shape[-1] - 1)])
