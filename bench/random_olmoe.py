"""Checkpoints of OLMoE's form with random weights: models of any size that need no download.

Guarantees: the same shape and seed give the same bytes; the folder is complete or absent; memory stays at one layer's weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZE = 0.02
"""The standard deviation of all weights."""
WORDLESS = 2
"""Tokens below are padding and a beginning."""


@dataclass(frozen=True)
class Shape:
    """How large a model is, and the seed of its weights."""

    layers: int
    hidden: int
    intermediate: int
    experts: int
    top_k: int
    heads: int
    vocabulary: int
    seed: int

    @property
    def config(self) -> dict[str, object]:
        """What transformers reads."""
        return {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "norm_topk_prob": False,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocabulary,
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


def make(folder: Path, shape: Shape) -> Path:
    """Writes the checkpoint to `folder`, unless it is there already, and returns the folder."""
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(_shards(shape), start=1):
        name = f"model-{number:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, partial / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (partial / "config.json").write_text(json.dumps(shape.config, indent=1))
    (partial / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    _write_tokenizer(partial, shape.vocabulary)
    partial.rename(folder)
    return folder


def _shards(shape: Shape) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(shape.seed)
    hidden, intermediate = shape.hidden, shape.intermediate

    def random(*sizes: int) -> torch.Tensor:
        return (torch.randn(sizes, generator=generator) * SIZE).to(torch.bfloat16)

    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        tensors = {f"{prefix}self_attn.{name}_proj.weight": random(hidden, hidden) for name in "qkvo"}
        norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
        tensors |= {f"{prefix}{name}.weight": torch.ones(hidden, dtype=torch.bfloat16) for name in norms}
        tensors[f"{prefix}mlp.gate.weight"] = random(shape.experts, hidden)
        for expert in range(shape.experts):
            inner = f"{prefix}mlp.experts.{expert}."
            tensors[f"{inner}gate_proj.weight"] = random(intermediate, hidden)
            tensors[f"{inner}up_proj.weight"] = random(intermediate, hidden)
            tensors[f"{inner}down_proj.weight"] = random(hidden, intermediate)
        yield tensors
    embedding, head = random(shape.vocabulary, hidden), random(shape.vocabulary, hidden)
    head[:WORDLESS] = 0  # so that these are never the likeliest, and every token of an answer brings text
    yield {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        "lm_head.weight": head,
    }


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A word for each token id, so that any sequence of ids is clean text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<s>": 1} | {f"w{token}": token for token in range(WORDLESS, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
