"""A `StepAttention` in plain memory: slow, and simple enough to be believed.

Guarantees: each sequence's keys and values are kept whole; windows, chunks, sinks, grouped heads and latent keys are applied
by their definitions, one sequence at a time, in float32.

Letters: T tokens of the step, P tokens that a sequence has so far, D width of a key, V of a value.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from folkmoot.models.trunk_spec import CacheSpec


class PlainAttention:
    """Keeps the past of some sequences; one object serves step after step."""

    def __init__(self, caches: Sequence[CacheSpec]) -> None:
        self.caches = caches
        self._keys: dict[tuple[int, int], torch.Tensor] = {}
        self._values: dict[tuple[int, int], torch.Tensor] = {}
        self._lengths: list[tuple[int, int]] = []

    def begin(self, lengths: Sequence[tuple[int, int]]) -> None:
        """Says how the next step is packed: (sequence, tokens) one after another."""
        self._lengths = list(lengths)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        cache = self.caches[layer]
        heads, tokens, width = query.shape
        assert key.shape == (cache.kv_heads, tokens, cache.key_dim), key.shape
        assert width == cache.key_dim
        assert tokens == sum(length for _, length in self._lengths)
        if cache.value_in_key:
            assert value is None
            value = key[..., : cache.value_dim]
        assert value is not None
        assert value.shape == (cache.kv_heads, tokens, cache.value_dim), value.shape
        answer = torch.empty(tokens, heads, cache.value_dim, dtype=query.dtype)
        start = 0
        for sequence, length in self._lengths:
            end = start + length
            keys = self._append(self._keys, (layer, sequence), key[:, start:end])
            values = self._append(self._values, (layer, sequence), value[:, start:end])
            answer[start:end] = _attend(cache, query[:, start:end], keys, values, scaling, sinks)
            start = end
        return answer

    @staticmethod
    def _append(
        past: dict[tuple[int, int], torch.Tensor], place: tuple[int, int], new: torch.Tensor
    ) -> torch.Tensor:
        past[place] = torch.cat((past[place], new), dim=1) if place in past else new.clone()
        return past[place]


def _attend(
    cache: CacheSpec,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    heads, tokens, _ = query.shape
    length = keys.shape[1]
    groups = heads // cache.kv_heads
    keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
    asking = torch.arange(length - tokens, length)[:, None]  # [T, 1]
    asked = torch.arange(length)[None]  # [1, P]
    seen = asked <= asking
    if cache.window is not None:
        seen &= asked > asking - cache.window
    if cache.chunk is not None:
        seen &= asked >= asking - asking % cache.chunk
    scores = (query.float() @ keys.float().transpose(1, 2)) * scaling  # [heads, T, P]
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.float()[:, None, None].expand(heads, tokens, 1)), dim=-1)
    weights = scores.softmax(dim=-1)[..., :length]
    return (weights @ values.float()).transpose(0, 1).to(query.dtype)  # [T, heads, V]
