"""The attention of one step over paged keys and values, on the CPU.

Guarantees: equal to softmax attention of each sequence by itself, accumulated in float32; grouped-query heads share keys
without a copy of them; keys that lie in one piece are read where they lie.

The kernel is torch's flash attention for the CPU, which also returns the logarithm of each row's softmax denominator: a
sink, which only adds to the denominator, is then one factor, sigmoid(denominator - sink).

Letters: T tokens of the step, K kv_heads, G heads that share a key, D width as stored, V value_dim, B sequences attended
side by side, n keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from ...models.trunk_spec import TrunkSpec
from .kv_memory import KvMemory, LayerMemory
from .step_layout import Alone, StepLayout, Together

_flash: Callable[..., tuple[torch.Tensor, torch.Tensor]] = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
)


class PagedAttention:
    """A `StepAttention` for one step."""

    def __init__(self, spec: TrunkSpec, memory: KvMemory, layout: StepLayout) -> None:
        self._caches = spec.caches
        self._memory = memory
        self._layout = layout

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor | None,
        scaling: float,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `StepAttention.attend` says."""
        cache, memory = self._caches[layer], self._memory.layers[layer]
        memory.write(self._layout.slots, key, value)
        heads, tokens, width = query.shape
        if width < memory.width:
            query = pad(query, (0, memory.width - width))
        if query.stride(-1) != 1:
            query = query.contiguous()
        rows = query.view(cache.kv_heads, -1, tokens, memory.width).permute(2, 0, 1, 3)  # [T, K, G, D]
        attended = query.new_empty((*rows.shape[:3], cache.value_dim))  # [T, K, G, V]
        shared_sinks = None if sinks is None else sinks.float().view(cache.kv_heads, -1)  # [K, G]
        for piece in self._layout.pieces(cache):
            if isinstance(piece, Together):
                _side_by_side(piece, memory, rows, scaling, shared_sinks, attended)
            else:
                _one_sequence(piece, memory, rows, scaling, shared_sinks, attended)
        return attended.view(tokens, heads, cache.value_dim)


def _one_sequence(
    piece: Alone,
    memory: LayerMemory,
    rows: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None,
    attended: torch.Tensor,
) -> None:
    """One row: the heads that share a key are the rows of one product with it.

    Several rows: each key head is a batch, and the heads that share it see it repeated with stride 0.
    """
    if isinstance(piece.keys, slice):
        keys, values = memory.span(piece.keys)  # [1, K, n, D]
    else:
        keys, values = (gathered[:, :, piece.counted] for gathered in memory.gather(piece.keys))
    count = piece.end - piece.begin
    asking = rows.narrow(0, piece.begin, count)  # [count, K, G, D]
    if count == 1:
        output, denominators = _flash(asking, keys, values, scale=scaling)  # [1, K, G, D]
    else:
        shared = (-1, rows.shape[2], -1, -1)
        output, denominators = _flash(
            asking.permute(1, 2, 0, 3),  # [K, G, count, D]
            keys.transpose(0, 1).expand(shared),
            values.transpose(0, 1).expand(shared),
            0.0,
            piece.causal,
            attn_mask=piece.mask,
            scale=scaling,
        )
        output, denominators = output.permute(2, 0, 1, 3), denominators.permute(2, 0, 1)
    _store(output, denominators, sinks, attended.narrow(0, piece.begin, count))


def _side_by_side(
    piece: Together,
    memory: LayerMemory,
    rows: torch.Tensor,
    scaling: float,
    sinks: torch.Tensor | None,
    attended: torch.Tensor,
) -> None:
    """One row each of several sequences, which are the batches."""
    keys, values = memory.gather(piece.pages, len(piece.rows))  # [B, K, n, D]
    asking = rows.index_select(0, piece.rows)  # [B, K, G, D]
    output, denominators = _flash(asking, keys, values, attn_mask=piece.mask, scale=scaling)
    place = torch.empty_like(attended[: len(piece.rows)])
    _store(output, denominators, sinks, place)
    attended.index_copy_(0, piece.rows, place)


def _store(
    output: torch.Tensor, denominators: torch.Tensor, sinks: torch.Tensor | None, place: torch.Tensor
) -> None:
    """Writes [rows, K, G, D] to [rows, K, G, V], as if each row's softmax had one more score, the sink, with no value."""
    if place.shape[-1] < output.shape[-1]:
        output = output[..., : place.shape[-1]]
    if sinks is not None:
        output = output * torch.sigmoid(denominators - sinks).unsqueeze(-1).to(output.dtype)
    place.copy_(output)
