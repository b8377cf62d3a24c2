"""The attention of one step over paged keys and values, on the CPU.

Guarantees: equal to softmax attention of each sequence by itself, accumulated in float32; grouped-query heads share keys
without a copy of them; keys that lie in one piece are read where they lie.

The kernel is torch's flash attention for the CPU, which also returns the logarithm of each row's softmax denominator: a
sink, which only adds to the denominator, is then one factor, sigmoid(denominator - sink).

Letters: T tokens of the step, H heads, K kv_heads, G heads that share a key (H / K), D width as stored, V value_dim,
B sequences attended together, n keys.
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
        if query.shape[-1] < memory.width:
            query = pad(query, (0, memory.width - query.shape[-1]))
        if query.stride(-1) != 1:
            query = query.contiguous()
        kv_heads = cache.kv_heads
        attended = query.new_empty(query.shape[1], query.shape[0], cache.value_dim)  # [T, H, V]
        for piece in self._layout.pieces(cache):
            if isinstance(piece, Together):
                _together(piece, memory, query, kv_heads, scaling, sinks, attended)
            elif piece.end - piece.begin == 1:
                _one_row(piece, memory, query, kv_heads, scaling, sinks, attended)
            else:
                _many_rows(piece, memory, query, kv_heads, scaling, sinks, attended)
        return attended


def _one_row(
    piece: Alone,
    memory: LayerMemory,
    query: torch.Tensor,
    kv_heads: int,
    scaling: float,
    sinks: torch.Tensor | None,
    attended: torch.Tensor,
) -> None:
    """The heads that share a key are the rows of one product with it."""
    keys, values = _keys_and_values(piece, memory)  # [K, n, D]
    row = query[:, piece.begin].reshape(1, kv_heads, -1, memory.width)  # [1, K, G, D]
    output, denominators = _flash(row, keys.unsqueeze(0), values.unsqueeze(0), scale=scaling)
    if sinks is not None:
        output = _with_sinks(output, denominators, sinks.view(kv_heads, -1))
    attended[piece.begin] = output.reshape(-1, memory.width)[:, : attended.shape[-1]]


def _many_rows(
    piece: Alone,
    memory: LayerMemory,
    query: torch.Tensor,
    kv_heads: int,
    scaling: float,
    sinks: torch.Tensor | None,
    attended: torch.Tensor,
) -> None:
    """Each key head is a batch, and the heads that share it are one head repeated with stride 0."""
    keys, values = _keys_and_values(piece, memory)  # [K, n, D]
    count = piece.end - piece.begin
    rows = query[:, piece.begin : piece.end].view(kv_heads, -1, count, memory.width)  # [K, G, rows, D]
    shared = (-1, rows.shape[1], -1, -1)
    output, denominators = _flash(
        rows,
        keys.unsqueeze(1).expand(shared),
        values.unsqueeze(1).expand(shared),
        0.0,
        piece.causal,
        attn_mask=piece.mask,
        scale=scaling,
    )
    if sinks is not None:
        output = _with_sinks(output, denominators, sinks.view(kv_heads, -1, 1))
    output = output.flatten(0, 1).transpose(0, 1)  # [rows, H, D]
    attended[piece.begin : piece.end] = output[..., : attended.shape[-1]]


def _together(
    piece: Together,
    memory: LayerMemory,
    query: torch.Tensor,
    kv_heads: int,
    scaling: float,
    sinks: torch.Tensor | None,
    attended: torch.Tensor,
) -> None:
    sequences = piece.rows.shape[0]
    keys, values = (
        gathered.view(kv_heads, sequences, -1, memory.width).transpose(0, 1)  # [B, K, n, D]
        for gathered in memory.gather(piece.pages)
    )
    chosen = query.index_select(1, piece.rows)  # [H, B, D]
    rows = chosen.view(kv_heads, -1, sequences, memory.width).permute(2, 0, 1, 3)  # [B, K, G, D]
    output, denominators = _flash(rows, keys, values, attn_mask=piece.mask, scale=scaling)
    if sinks is not None:
        output = _with_sinks(output, denominators, sinks.view(kv_heads, -1))
    attended[piece.rows] = output.flatten(1, 2)[..., : attended.shape[-1]]


def _keys_and_values(piece: Alone, memory: LayerMemory) -> tuple[torch.Tensor, torch.Tensor]:
    if piece.slots is not None:
        return memory.keys[:, piece.slots], memory.values[:, piece.slots]
    assert piece.pages is not None
    keys, values = memory.gather(piece.pages)
    return keys[:, piece.keys], values[:, piece.keys]


def _with_sinks(output: torch.Tensor, denominators: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """Scales each row as if its softmax had one more score, the sink, with no value."""
    return output * torch.sigmoid(denominators - sinks.float()).unsqueeze(-1).to(output.dtype)
