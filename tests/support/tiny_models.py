"""Writes tiny random checkpoints of every supported family, through transformers' own `save_pretrained`.

Guarantees: the same family and overrides give the same bytes; every weight is random, also those that transformers starts
at zero or one (biases, norms, router corrections), so that a part which is left out changes the answer; the folder holds a
tokenizer that gives any text back unchanged, and a chat template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()

BOS, EOS, USER, ASSISTANT, PAD = "<s>", "</s>", "<user>", "<assistant>", "<pad>"
SPECIAL = (BOS, EOS, USER, ASSISTANT, PAD)
VOCAB = 272
"""256 bytes, the special tokens, and a few rows of the embedding that no token uses, as published models have."""

CHAT_TEMPLATE = (
    f"{BOS}{{% for m in messages %}}{{% if m['role'] == 'assistant' %}}{ASSISTANT}{{{{ m['content'] }}}}{EOS}"
    f"{{% else %}}{USER}{{{{ m['content'] }}}}{EOS}{{% endif %}}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 260,
}
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
GROUPED = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 48, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 80,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "mlp_only_layers": [1],
    },
    "qwen3_moe": {
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "norm_topk_prob": True,
    },
    "olmoe": {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "deepseek_v2": {
        **LATENT,
        **GROUPED,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 1.5,
    },
    "deepseek_v3": {
        **LATENT,
        **GROUPED,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 0,
    },
    "glm4_moe": {
        **GROUPED,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "use_qk_norm": True,
        "num_nextn_predict_layers": 0,
    },
    "glm4_moe_lite": {
        **LATENT,
        **GROUPED,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
    },
    "gpt_oss": {
        "intermediate_size": 48,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 16,
            "rope_theta": 150000.0,
        },
    },
    "granitemoe": {
        "intermediate_size": 48,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.25,
    },
    "llama4_text": {
        "intermediate_size": 48,
        "intermediate_size_mlp": 96,
        "num_hidden_layers": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "head_dim": 16,
        "attention_chunk_size": 32,
        "floor_scale": 16,
    },
    "minimax_m2": {"intermediate_size": 48, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16},
    "ernie4_5_moe": {
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
        "num_hidden_layers": 3,
    },
    "dots1": {
        **GROUPED,
        "intermediate_size": 96,
        "moe_intermediate_size": 48,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
    },
    "phimoe": {
        "intermediate_size": 48,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "lm_head_bias": True,
    },
    "llama": {"intermediate_size": 96, "head_dim": 16},
    "mistral": {"intermediate_size": 96, "head_dim": 16, "sliding_window": 16},
    "qwen3": {"intermediate_size": 96, "head_dim": 16},
}
"""What each family's tiny configuration adds to `COMMON`."""


def tiny_checkpoint(family: str, folder: Path, **overrides: Any) -> Path:
    """Writes a tiny checkpoint of a family and returns its folder.

    Args:
        family: transformers' `model_type`, a key of `FAMILIES`.
        folder: Where to write; made when it does not exist.
        overrides: Fields of the configuration; besides them `seed` (0), `dtype` (torch.float32), `max_shard_size`
            (one file) and `tokenizer` (True).
    """
    seed: int = overrides.pop("seed", 0)
    dtype: torch.dtype = overrides.pop("dtype", torch.float32)
    max_shard_size: str | int = overrides.pop("max_shard_size", "5GB")
    with_tokenizer: bool = overrides.pop("tokenizer", True)
    config = CONFIG_MAPPING[family](**{**COMMON, **FAMILIES[family], **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _randomise(model)
    model.generation_config.do_sample = False
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    if with_tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes and the special tokens; any text comes back unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _randomise(model: torch.nn.Module) -> None:
    """Spreads weights so that logits differ well, and moves constants off zero and one."""
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() == 1 and "norm" in name:
                tensor.copy_(1 + 0.2 * torch.randn_like(tensor))
            elif tensor.dim() == 1:
                tensor.copy_(0.1 * torch.randn_like(tensor))
            else:
                tensor.copy_(0.15 * torch.randn_like(tensor))
