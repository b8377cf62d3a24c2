"""The configuration of a GGUF model as transformers would have it.

Guarantees: every size comes from the file, and one that is missing is an error, not a default; what would change the
model's answers and cannot be carried over is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..safetensors_header import CheckpointError
from .checked_config import checked_config
from .gguf_header import GgufHeader
from .gguf_names import FAMILY_OF, ROPE_FACTORS

SAFETENSORS = "use the model's safetensors version"
MIXTURES = {"qwen2moe": False, "qwen3moe": True}
"""Architectures with experts, and whether their gates are scaled to a sum of 1: which GGUF leaves to the reader to know."""
LLAMA3_FACTORS = (8.0, 32.0)
"""How much Llama 3.1, 3.3 (8) and 3.2 (32) stretch the slowest rotary frequencies."""
LLAMA3_CONTEXT = 8192


def check_architecture(path: Path, header: GgufHeader) -> str:
    """The architecture of a GGUF file.

    Raises:
        CheckpointError: it is not supported; it is named.
    """
    architecture = str(header.metadata.get("general.architecture"))
    if architecture not in FAMILY_OF:
        raise CheckpointError(
            f"{path} is of architecture {architecture!r}, which cannot be read from GGUF",
            advice=f"{SAFETENSORS}; GGUF is read for {', '.join(FAMILY_OF)}",
        )
    if isinstance(parts := header.metadata.get("split.count"), int) and parts > 1:
        raise CheckpointError(
            f"{path} is one of {parts} parts of a model",
            advice="put the parts together first: llama-gguf-split --merge FIRST_PART WHOLE",
        )
    if architecture == "llama" and header.metadata.get("llama.expert_count"):
        raise CheckpointError(f"{path} is Mixtral, which cannot be read from GGUF", advice=SAFETENSORS)
    return architecture


def gguf_config(path: Path, header: GgufHeader, dtype: torch.dtype) -> Any:
    """The configuration of a GGUF file whose architecture is supported, for weights of type `dtype`.

    Raises:
        CheckpointError: a number is missing, or the file scales rotary positions in a way that cannot be carried over.
    """
    architecture = check_architecture(path, header)
    said = _Said(path, header, architecture)
    heads, hidden = said.whole("attention.head_count"), said.whole("embedding_length")
    head_dim = said.whole("attention.key_length", hidden // max(heads, 1))
    if said.whole("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(f"{path} gives positions to a part of each head only", advice=SAFETENSORS)
    if (scaling := header.metadata.get(f"{architecture}.rope.scaling.type", "none")) != "none":
        raise CheckpointError(
            f"{path} scales rotary positions by {scaling!r}, which is not carried over from GGUF",
            advice=SAFETENSORS,
        )
    theta = said.real("rope.freq_base", 10000.0)
    fields: dict[str, Any] = {
        "vocab_size": said.rows("token_embd.weight", axis=0),
        "hidden_size": hidden,
        "intermediate_size": said.whole("feed_forward_length"),
        "num_hidden_layers": said.whole("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said.whole("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": said.whole("context_length"),
        "rms_norm_eps": said.real("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": token_id(header, "bos"),
        "eos_token_id": token_id(header, "eos"),
        "pad_token_id": token_id(header, "padding"),
        "dtype": dtype,
    }
    if architecture in MIXTURES:
        fields |= {
            "num_experts": said.whole("expert_count"),
            "num_experts_per_tok": said.whole("expert_used_count"),
            "moe_intermediate_size": said.rows("blk.0.ffn_gate_exps.weight", axis=1),
            "norm_topk_prob": MIXTURES[architecture],
        }
    if architecture == "qwen2moe":
        fields["shared_expert_intermediate_size"] = said.rows("blk.0.ffn_gate_shexp.weight", axis=0)
    if ROPE_FACTORS in header.tensors:
        fields["rope_parameters"] = _llama3(path, header, fields)
    return checked_config(str(path), lambda: CONFIG_MAPPING[FAMILY_OF[architecture]](**fields))


def token_id(header: GgufHeader, kind: str) -> int | None:
    """The number of a special token, such as `eos`; None where the file does not say."""
    found = header.metadata.get(f"tokenizer.ggml.{kind}_token_id")
    return found if isinstance(found, int) and not isinstance(found, bool) else None


class _Said:
    """What a file says under its architecture's keys; what it must say and does not is an error."""

    def __init__(self, path: Path, header: GgufHeader, architecture: str) -> None:
        self._path = path
        self._header = header
        self._architecture = architecture

    def whole(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(
                f"{self._path} has {value!r} where one whole number {self._architecture}.{key} is needed",
                advice=SAFETENSORS,
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise CheckpointError(
                f"{self._path} has {value!r} where a number {self._architecture}.{key} is needed",
                advice=SAFETENSORS,
            )
        return value

    def rows(self, name: str, *, axis: int) -> int:
        shape = self._header.tensors[name].shape if name in self._header.tensors else ()
        if len(shape) <= axis:
            raise CheckpointError(f"{self._path} lacks {name}", advice="download it again, or use another")
        return shape[axis]

    def _value(self, key: str, default: float | None) -> Any:
        return self._header.metadata.get(f"{self._architecture}.{key}", default)


def _llama3(path: Path, header: GgufHeader, fields: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters whose frequencies the file's factors are made from."""
    place = header.tensors[ROPE_FACTORS]
    factors = torch.from_numpy(np.fromfile(path, np.float32, place.length // 4, offset=place.offset))
    theta = fields["rope_parameters"]["rope_theta"]
    for factor in LLAMA3_FACTORS:
        parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": LLAMA3_CONTEXT,
        }
        sizes = {key: fields[key] for key in ("hidden_size", "num_attention_heads", "head_dim")}
        candidate = LlamaConfig(**sizes, rope_parameters=dict(parameters))
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](candidate, torch.device("cpu"))
        plain = theta ** -(torch.arange(0, 2 * len(scaled), 2).float() / (2 * len(scaled)))
        if len(scaled) == len(factors) and torch.allclose(plain / scaled, factors, rtol=1e-3):
            return parameters
    raise CheckpointError(
        f"{path} scales rotary positions by {ROPE_FACTORS} in a way that is not known", advice=SAFETENSORS
    )
