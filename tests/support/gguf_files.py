"""Writes a tiny checkpoint down as GGUF, the way llama.cpp's converter does.

Guarantees: what the file says is computed from the checkpoint alone, with gguf's own writer and quantizers, and shares no
code with Folkmoot's reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.torch import load_file

from folkmoot.tests.support.tiny_models import CHAT_TEMPLATE, SPECIAL, VOCAB, tiny_tokenizer

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
NORMAL, CONTROL, UNUSED = 1, 3, 5

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}


def write_gguf(
    checkpoint: Path,
    path: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    metadata: dict[str, Any] | None = None,
    general: dict[str, int] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Writes a checkpoint of `ARCHITECTURES` as one GGUF file and returns its path.

    Args:
        checkpoint: The folder of a tiny checkpoint.
        path: The file to write.
        kind: How matrices are stored; vectors are float32.
        metadata: More metadata under the architecture's keys, or instead of what would be written.
        general: More metadata under keys of their own.
        tensors: More tensors, stored as float32.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(path, architecture)
    for key, value in {**_metadata(config), **(metadata or {})}.items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        (writer.add_uint32 if isinstance(value, int) else add)(f"{architecture}.{key}", value)
    for key, number in (general or {}).items():
        writer.add_uint32(key, number)
    _add_tokenizer(writer)
    for name, array in _arrays(config, load_file(checkpoint / "model.safetensors")).items():
        if array.ndim == 1 or kind is GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    found = {
        "context_length": config["max_position_embeddings"],
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": config.get("head_dim")
        or config["hidden_size"] // config["num_attention_heads"],
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
    }
    if config["model_type"] == "llama":
        found["rope.dimension_count"] = config["head_dim"]
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts:
        found |= {"expert_count": experts, "expert_used_count": config["num_experts_per_tok"]}
    return found


def _arrays(config: dict[str, Any], published: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    for name in sorted(published):
        array = published[name].float().numpy()
        whole = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }
        if name in whole:
            arrays[whole[name]] = array
            continue
        _, _, layer, rest = name.split(".", 3)
        part, suffix = rest.rsplit(".", 1)
        if part.startswith("mlp.experts."):
            experts.setdefault(f"blk.{layer}.ffn_{part.split('.')[3].removesuffix('_proj')}_exps.weight", [])
            continue
        short = LAYER_NAMES[part]
        if short == "ffn_gate_inp_shexp":
            array = array[0]
        if config["model_type"] == "llama" and short in ("attn_q", "attn_k"):
            array = _interleave_halves(array, heads[short[-1]])
        arrays[f"blk.{layer}.{short}.{suffix}"] = array
    for name in experts:
        layer, role = name.split(".")[1], name.split("_")[1]
        count = config.get("num_experts") or config["num_local_experts"]
        prefix = f"model.layers.{layer}.mlp.experts."
        arrays[name] = np.stack(
            [published[f"{prefix}{expert}.{role}_proj.weight"].float().numpy() for expert in range(count)]
        )
    return arrays


def _interleave_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row 2i + h of each head comes from row i of its half h: what llama.cpp's rotary embedding wants."""
    halves = rows.reshape(heads, 2, -1, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _add_tokenizer(writer: GGUFWriter) -> None:
    vocabulary = tiny_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    kinds = [CONTROL if token in SPECIAL else NORMAL for token in tokens]
    spare = ["he", *(f"[unused{index}]" for index in range(VOCAB - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + spare)
    writer.add_token_types(kinds + [NORMAL] + [UNUSED] * (len(spare) - 1))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(vocabulary[SPECIAL[0]])
    writer.add_eos_token_id(vocabulary[SPECIAL[1]])
    writer.add_pad_token_id(vocabulary[SPECIAL[4]])
    writer.add_chat_template(CHAT_TEMPLATE)
