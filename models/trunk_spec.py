"""What a trunk is to the engine that drives it: its sizes, what each layer caches, and the attention that a step brings along.

Guarantees: nothing here depends on how a trunk is built, so an engine can be written and tested against these three alone;
`TrunkSpec.caches` has one entry for each decoder layer, in order.

Letters: T tokens of the step, D width of one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class CacheSpec:
    """What one layer keeps of each token, and which earlier tokens of its own sequence a token may see.

    Attributes:
        kv_heads: Heads of the key (and the value).
        key_dim: Width of one head's key.
        value_dim: Width of one head's value.
        value_in_key: True for latent attention: the value is `key[..., :value_dim]`, so that only keys are stored.
        window: A token at position p sees positions > p - window; None for no limit.
        chunk: A token at position p sees positions >= p - p % chunk; None for no limit.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    value_in_key: bool = False
    window: int | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class TrunkSpec:
    """The sizes of a trunk that an engine plans by.

    Attributes:
        layers: Decoder layers.
        caches: What each of them keeps of a token.
        moe_layers: Layers that call the expert pool, ascending.
        vocab: Width of the logits.
        context_length: Positions that the model was made for.
        eos_ids: Tokens that end an answer.
        dtype: What the trunk computes in, keys and values included.
    """

    layers: int
    caches: tuple[CacheSpec, ...]
    moe_layers: tuple[int, ...]
    vocab: int
    context_length: int
    eos_ids: frozenset[int]
    dtype: torch.dtype


class StepAttention(Protocol):
    """The attention of one step: it knows which packed token belongs to which sequence, and where the past is kept."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Stores the step's keys and values, and lets each token attend causally to its own sequence.

        Args:
            layer: Index of the decoder layer; its window or chunk is in `TrunkSpec.caches[layer]`.
            query: [heads, T, key_dim], positions already applied.
            key: [kv_heads, T, key_dim], positions already applied.
            value: [kv_heads, T, value_dim], or None where the value lies in the key.
            scaling: What scores are multiplied by.
            sinks: [heads], a learned score that takes part in the softmax and brings no value; None where there is none.

        Returns:
            [T, heads, value_dim].
        """
        ...
