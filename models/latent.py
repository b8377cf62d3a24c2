"""Latent attention (MLA) with the projections absorbed: what is cached and attended to is the latent, never its expansion.

Guarantees: scores and outputs are those of the expanded form, for (q W_k) . c = q . (W_k c) and W_v (sum a c) = sum a (W_v c);
one token costs latent + rope numbers of cache, for all heads together. After DeepSeek-V2 (arXiv 2405.04434), section 2.1.2.

Letters: T tokens, N width of a head's query and key without position, R with position, L width of the latent, V of a value.
"""

from __future__ import annotations

from typing import Any

import torch

from .trunk_spec import CacheSpec, StepAttention


def keep_latent(attention: Any) -> CacheSpec:
    """Makes an attention module of transformers hand on latents as keys, and says what its layer caches."""
    attention.expand_kv = _latent_as_key
    latent, rope = attention.kv_lora_rank, attention.qk_rope_head_dim
    return CacheSpec(kv_heads=1, key_dim=latent + rope, value_dim=latent, value_in_key=True)


def _latent_as_key(latent: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, None]:
    return torch.cat((latent, rotated), dim=-1), None  # [1, 1, T, L + R]


def attend_latent(
    module: Any, query: torch.Tensor, key: torch.Tensor, scaling: float, attention: StepAttention
) -> torch.Tensor:
    """Attends over latents.

    Args:
        module: The attention module, which has the projection from the latent.
        query: [heads, T, N + R].
        key: [1, T, L + R].
        scaling: What scores are multiplied by.
        attention: The step's.

    Returns:
        [T, heads, V].
    """
    plain, rotated = query[..., : module.qk_nope_head_dim], query[..., module.qk_nope_head_dim :]
    projection: torch.Tensor = module.kv_b_proj.weight.view(
        module.num_heads, -1, module.kv_lora_rank
    )  # [heads, N + V, L]
    to_key, to_value = projection[:, : module.qk_nope_head_dim], projection[:, module.qk_nope_head_dim :]
    absorbed = torch.cat((torch.bmm(plain, to_key), rotated), dim=-1)  # [heads, T, L + R]
    mixed = attention.attend(module.layer_idx, absorbed, key, None, scaling, None)  # [T, heads, L]
    return torch.bmm(mixed.transpose(0, 1), to_value.transpose(1, 2)).transpose(0, 1)  # [T, heads, V]
