"""Joins the attention modules of transformers to the attention that a step brings along.

Guarantees: projections, norms and rotary positions stay the module's own; what is attended to, and where the past is kept, is
the step's. No mask exists: windows and chunks are in the layer's `CacheSpec`, and sequences never see each other.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from .families import Config, FamilyAdapter, Reach
from .latent import attend_latent, keep_latent
from .step import Step, current
from .trunk_spec import CacheSpec

NAME = "folkmoot"
"""The name under which transformers finds `attend`."""


def join_attention(adapter: FamilyAdapter, config: Config, module: Any) -> CacheSpec:
    """Prepares one layer's attention module for packed steps, and says what the layer caches."""
    if adapter.latent:
        return keep_latent(module)
    if getattr(module, "attn_temperature_tuning", False) and not module.use_rope:
        # Llama 4 takes positions from the packed batch here, which are right only where one sequence is alone in it.
        module.attn_temperature_tuning = False
        module.query_scale_by_position = True
    heads = module.k_proj.out_features // module.head_dim
    window, chunk = _reach(adapter, config, module.layer_idx)
    return CacheSpec(heads, module.head_dim, module.head_dim, window=window, chunk=chunk)


def _reach(adapter: FamilyAdapter, config: Config, layer: int) -> tuple[int | None, int | None]:
    match adapter.reach:
        case Reach.ALL:
            return None, None
        case Reach.WINDOW:
            return config.sliding_window, None
        case Reach.BY_LAYER:
            kind = config.layer_types[layer]
            window = config.sliding_window if kind == "sliding_attention" else None
            return window, config.attention_chunk_size if kind == "chunked_attention" else None


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor | None,
    attention_mask: None,
    *,
    scaling: float,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: `query` is [1, heads, T, D], the answer [1, T, heads, D]."""
    step = current()
    if value is None:
        return attend_latent(module, query[0], key[0], scaling, step.attention)[None], None
    if getattr(module, "query_scale_by_position", False):
        query = _scale_by_position(module, query, step)
    answer = step.attention.attend(module.layer_idx, query[0], key[0], value[0], scaling, s_aux)
    return answer[None], None


def _scale_by_position(module: Any, query: torch.Tensor, step: Step) -> torch.Tensor:
    """Llama 4's temperature of attention layers without rotary positions (arXiv 2501.19399)."""
    floors = torch.floor((step.positions.float() + 1.0) / module.floor_scale)
    scales: torch.Tensor = torch.log1p(floors) * module.attn_scale + 1.0  # [T]
    return (query * scales[:, None]).to(query.dtype)


AttentionInterface.register(NAME, attend)
