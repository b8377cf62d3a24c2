"""The benchmark's model `moe-4l`: OLMoE's shape cut to four layers, with random weights from a seed.

Guarantees: the same seed gives the same bytes; the folder is complete or absent; memory stays at one layer's weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, HEADS, VOCABULARY = 4, 2048, 1024, 64, 8, 16, 32_000
SEED = 20_240_901
CONFIG = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "norm_topk_prob": False,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ACTIVE_BYTES = 2 * (
    LAYERS * (TOP_K * 3 * HIDDEN * INTERMEDIATE + 4 * HIDDEN**2 + EXPERTS * HIDDEN) + VOCABULARY * HIDDEN
)
"""Bytes of weights that one token of one stream reads: its experts, attention, routers and the head."""


def make(folder: Path) -> Path:
    """Writes the checkpoint to `folder`, unless it is there already, and returns the folder."""
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(_shards(), start=1):
        name = f"model-{number:05d}-of-{LAYERS + 1:05d}.safetensors"
        save_file(tensors, partial / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (partial / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (partial / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    _write_tokenizer(partial)
    partial.rename(folder)
    return folder


def _shards() -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(SEED)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors = {f"{prefix}self_attn.{name}_proj.weight": random(HIDDEN, HIDDEN) for name in "qkvo"}
        norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
        tensors |= {f"{prefix}{name}.weight": torch.ones(HIDDEN, dtype=torch.bfloat16) for name in norms}
        tensors[f"{prefix}mlp.gate.weight"] = random(EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            inner = f"{prefix}mlp.experts.{expert}."
            tensors[f"{inner}gate_proj.weight"] = random(INTERMEDIATE, HIDDEN)
            tensors[f"{inner}up_proj.weight"] = random(INTERMEDIATE, HIDDEN)
            tensors[f"{inner}down_proj.weight"] = random(HIDDEN, INTERMEDIATE)
        yield tensors
    yield {
        "model.embed_tokens.weight": random(VOCABULARY, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16),
        "lm_head.weight": random(VOCABULARY, HIDDEN),
    }


def _write_tokenizer(folder: Path) -> None:
    """A word for each token id, so that any sequence of ids is clean text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<s>": 1} | {f"w{token}": token for token in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
