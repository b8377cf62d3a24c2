"""What GGUF calls the tensors that transformers calls otherwise.

Guarantees: every tensor of a file is either mapped or refused by name; none is dropped in silence.

GGUF keeps the query and key rows of the llama architecture in the order that its rotary embedding wants: the two halves
of each head interleaved. `row_order` undoes that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ..safetensors_header import CheckpointError

FAMILY_OF = {"llama": "llama", "qwen3": "qwen3", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
"""transformers' `model_type` by GGUF's `general.architecture`; Mistral is written as llama."""

ROPE_FACTORS = "rope_freqs.weight"
"""Not weights: what Llama 3.1 and later divide the rotary frequencies by."""

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_EVERY: Mapping[str, str] = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
}
_DENSE = {f"ffn_{role}.weight": f"mlp.{role}_proj.weight" for role in ("gate", "up", "down")}
_HEAD_NORMS = {f"attn_{role}_norm.weight": f"self_attn.{role}_norm.weight" for role in ("q", "k")}
_ROUTED = {
    "ffn_gate_inp.weight": "mlp.gate.weight",
    **{f"ffn_{role}_exps.weight": f"mlp.experts.*.{role}_proj.weight" for role in ("gate", "up", "down")},
}
_SHARED = {
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    **{
        f"ffn_{role}_shexp.weight": f"mlp.shared_expert.{role}_proj.weight" for role in ("gate", "up", "down")
    },
}
_BIASES = {f"attn_{role}.bias": f"self_attn.{role}_proj.bias" for role in ("q", "k", "v")}

_IN_LAYER: Mapping[str, Mapping[str, str]] = {
    "llama": {**_EVERY, **_DENSE},
    "qwen3": {**_EVERY, **_DENSE, **_HEAD_NORMS},
    "qwen2moe": {**_EVERY, **_BIASES, **_ROUTED, **_SHARED},
    "qwen3moe": {**_EVERY, **_HEAD_NORMS, **_ROUTED},
}
"""For each architecture, the tensors of a layer; `*` stands for each expert of a tensor that holds them all."""


def published_name(architecture: str, name: str) -> str:
    """What transformers calls a GGUF tensor; with `*` where it holds all experts of a layer.

    Raises:
        CheckpointError: the architecture is not supposed to have such a tensor.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if match is not None and match.group(2) in _IN_LAYER[architecture]:
        return f"model.layers.{match.group(1)}.{_IN_LAYER[architecture][match.group(2)]}"
    raise CheckpointError(
        f"this {architecture} GGUF file has a tensor {name} that is not supported",
        advice="use the model's safetensors version",
    )


def row_order(architecture: str, name: str, rows: int, heads: int, kv_heads: int) -> torch.Tensor | None:
    """For each published row of a tensor, the row of the GGUF tensor that it is; None where the order is the same."""
    part = name.rpartition(".attn_")[2]
    if architecture != "llama" or part not in ("q.weight", "k.weight"):
        return None
    count = heads if part == "q.weight" else kv_heads
    if count <= 0 or rows % (2 * count):
        raise CheckpointError(
            f"{name} has {rows} rows, which do not make {count} heads", advice="download the GGUF file again"
        )
    return torch.arange(rows).view(count, rows // count // 2, 2).transpose(1, 2).reshape(rows)
