"""The configuration of a GGUF model as transformers would have it.

Guarantees: what transformers leaves at a default although the file says otherwise is corrected from the file; what would
change the model's answers and cannot be carried over is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..safetensors_header import CheckpointError
from .gguf_header import GgufHeader
from .gguf_names import FAMILY_OF, ROPE_FACTORS
from .safetensors_model import read_config

SAFETENSORS = "use the model's safetensors version"
LLAMA3_FACTORS = (8.0, 32.0)
"""How much Llama 3.1, 3.3 (8) and 3.2 (32) stretch the slowest rotary frequencies."""
LLAMA3_CONTEXT = 8192


def check_architecture(path: Path, header: GgufHeader) -> str:
    """The architecture of a GGUF file.

    Raises:
        CheckpointError: it is not supported; it is named.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in FAMILY_OF:
        raise CheckpointError(
            f"{path} is of architecture {architecture!r}, which cannot be read from GGUF",
            advice=f"{SAFETENSORS}; GGUF is read for {', '.join(FAMILY_OF)}",
        )
    if architecture == "llama" and header.metadata.get("llama.expert_count"):
        raise CheckpointError(f"{path} is Mixtral, which cannot be read from GGUF", advice=SAFETENSORS)
    for key in ("embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        if not isinstance(header.metadata.get(f"{architecture}.{key}"), int):
            raise CheckpointError(f"{path} has no single number {architecture}.{key}", advice=SAFETENSORS)
    return str(architecture)


def gguf_config(path: Path, header: GgufHeader, dtype: torch.dtype) -> Any:
    """The configuration of a GGUF file whose architecture is supported, for weights of type `dtype`.

    Raises:
        CheckpointError: the file scales rotary positions in a way that cannot be carried over.
    """
    architecture = check_architecture(path, header)
    config = read_config(path.parent, gguf_file=path.name)
    said = header.metadata
    if (width := said.get(f"{architecture}.attention.key_length")) is not None:
        config.head_dim = width
    if architecture in ("qwen2moe", "qwen3moe"):
        config.moe_intermediate_size = _rows(path, header, "blk.0.ffn_gate_exps.weight", axis=1)
    if architecture == "qwen2moe":
        config.shared_expert_intermediate_size = _rows(path, header, "blk.0.ffn_gate_shexp.weight", axis=0)
    config.vocab_size = _rows(path, header, "token_embd.weight", axis=0)
    if (scaling := said.get(f"{architecture}.rope.scaling.type", "none")) != "none":
        raise CheckpointError(
            f"{path} scales rotary positions by {scaling!r}, which is not carried over from GGUF",
            advice=SAFETENSORS,
        )
    if ROPE_FACTORS in header.tensors:
        config.rope_parameters = _llama3(path, header, config)
    for key in ("bos", "eos"):
        setattr(config, f"{key}_token_id", said.get(f"tokenizer.ggml.{key}_token_id"))
    config.pad_token_id = said.get("tokenizer.ggml.padding_token_id")
    config.dtype = dtype
    return config


def _rows(path: Path, header: GgufHeader, name: str, *, axis: int) -> int:
    if name not in header.tensors or len(header.tensors[name].shape) <= axis:
        raise CheckpointError(f"{path} lacks {name}", advice="download it again, or use another")
    return header.tensors[name].shape[axis]


def _llama3(path: Path, header: GgufHeader, config: Any) -> dict[str, Any]:
    """The rotary parameters whose frequencies the file's factors are made from."""
    place = header.tensors[ROPE_FACTORS]
    factors = torch.from_numpy(np.fromfile(path, np.float32, place.length // 4, offset=place.offset))
    theta = config.rope_parameters["rope_theta"]
    for factor in LLAMA3_FACTORS:
        parameters = {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": LLAMA3_CONTEXT,
        }
        sizes = {key: getattr(config, key) for key in ("hidden_size", "num_attention_heads", "head_dim")}
        candidate = LlamaConfig(**sizes, rope_parameters=dict(parameters))
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](candidate, torch.device("cpu"))
        plain = theta ** -(torch.arange(0, 2 * len(scaled), 2).float() / (2 * len(scaled)))
        if len(scaled) == len(factors) and torch.allclose(plain / scaled, factors, rtol=1e-3):
            return parameters
    raise CheckpointError(
        f"{path} scales rotary positions by {ROPE_FACTORS} in a way that is not known", advice=SAFETENSORS
    )
