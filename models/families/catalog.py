"""The families that Folkmoot can serve, one declaration each.

Guarantees: every declaration has been checked against transformers 5.23's modeling code by a test that compares logits and
greedy tokens of a tiny checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...kernels.formats import Layout
from .adapter import Config, FamilyAdapter, Reach, UnsupportedModelError

_QWEN = tuple(f"mlp.experts.{{expert}}.{role}_proj.weight" for role in ("gate", "up", "down"))
_MIXTRAL = tuple(f"block_sparse_moe.experts.{{expert}}.{role}.weight" for role in ("w1", "w3", "w2"))
_DENSE = tuple(f"mlp.{role}_proj.weight" for role in ("gate", "up", "down"))


def _qwen_sparse(config: Config, layer: int) -> bool:
    return bool(layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0)


def _after_dense(config: Config, layer: int) -> bool:
    return bool(layer >= config.first_k_dense_replace)


def _ernie_sparse(config: Config, layer: int) -> bool:
    within = config.moe_layer_start_index <= layer <= config.moe_layer_end_index
    return bool(within and (layer + 1) % config.moe_layer_interval == 0)


def _minimax_route(block: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _, gates, experts = block.gate(rows, block.e_score_correction_bias)
    return gates, experts


def _llama4_route(block: Any, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scores, logits = block.router(rows)  # [T, E] each
    experts = logits.topk(block.top_k, dim=-1).indices
    return scores.gather(1, experts), experts


def _dense(model_type: str, experts_class: str, reach: Reach = Reach.ALL) -> FamilyAdapter:
    return FamilyAdapter(
        model_type=model_type,
        tensors=_DENSE,
        intermediate="intermediate_size",
        sliced=True,
        experts_class=experts_class,
        reach=reach,
    )


_FAMILIES = (
    FamilyAdapter(
        model_type="mixtral",
        tensors=_MIXTRAL,
        intermediate="intermediate_size",
        experts_class="MixtralExperts",
        reach=Reach.WINDOW,
    ),
    FamilyAdapter(
        model_type="qwen2_moe",
        tensors=_QWEN,
        experts="num_experts",
        sparse=_qwen_sparse,
        experts_class="Qwen2MoeExperts",
        reach=Reach.BY_LAYER,
        shared="shared_expert",
        shared_gate="shared_expert_gate",
    ),
    FamilyAdapter(
        model_type="qwen3_moe",
        tensors=_QWEN,
        experts="num_experts",
        sparse=_qwen_sparse,
        experts_class="Qwen3MoeExperts",
        reach=Reach.WINDOW,
    ),
    FamilyAdapter(
        model_type="olmoe",
        tensors=_QWEN,
        intermediate="intermediate_size",
        experts_class="OlmoeExperts",
    ),
    FamilyAdapter(
        model_type="deepseek_v2",
        tensors=_QWEN,
        experts="n_routed_experts",
        sparse=_after_dense,
        experts_class="DeepseekV2Experts",
        shared="shared_experts",
        latent=True,
    ),
    FamilyAdapter(
        model_type="deepseek_v3",
        tensors=_QWEN,
        sparse=_after_dense,
        experts_class="DeepseekV3Experts",
        shared="shared_experts",
        latent=True,
    ),
    FamilyAdapter(
        model_type="glm4_moe",
        tensors=_QWEN,
        sparse=_after_dense,
        experts_class="Glm4MoeExperts",
        shared="shared_experts",
    ),
    FamilyAdapter(
        model_type="glm4_moe_lite",
        tensors=_QWEN,
        sparse=lambda config, layer: config.mlp_layer_types[layer] == "sparse",
        experts_class="Glm4MoeLiteExperts",
        shared="shared_experts",
        latent=True,
    ),
    FamilyAdapter(
        model_type="gpt_oss",
        tensors=(
            "mlp.experts.gate_up_proj",
            "mlp.experts.gate_up_proj_bias",
            "mlp.experts.down_proj",
            "mlp.experts.down_proj_bias",
        ),
        layout=Layout.INTERLEAVED_BIASED,
        intermediate="intermediate_size",
        experts_class="GptOssExperts",
        reach=Reach.BY_LAYER,
        router="router",
        returns_pair=True,
    ),
    FamilyAdapter(
        model_type="granitemoe",
        tensors=("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
        layout=Layout.FUSED,
        intermediate="intermediate_size",
        experts_class="GraniteMoeExperts",
        embedding_multiplier="embedding_multiplier",
        logits_divisor="logits_scaling",
        block="block_sparse_moe",
        router="router",
    ),
    FamilyAdapter(
        model_type="llama4_text",
        modeling_name="llama4",
        tensors=("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
        layout=Layout.FUSED_TRANSPOSED,
        intermediate="intermediate_size",
        sparse=lambda config, layer: layer in config.moe_layers,
        experts_class="Llama4TextExperts",
        reach=Reach.BY_LAYER,
        block="feed_forward",
        shared="shared_expert",
        route=_llama4_route,
        scales_input=True,
        returns_pair=True,
    ),
    FamilyAdapter(
        model_type="minimax_m2",
        tensors=_MIXTRAL,
        intermediate="intermediate_size",
        experts_class="MiniMaxM2Experts",
        route=_minimax_route,
    ),
    FamilyAdapter(
        model_type="ernie4_5_moe",
        tensors=_QWEN,
        experts="moe_num_experts",
        sparse=_ernie_sparse,
        experts_class="Ernie4_5_MoeExperts",
        shared="shared_experts",
    ),
    FamilyAdapter(
        model_type="dots1",
        tensors=_QWEN,
        sparse=_after_dense,
        experts_class="Dots1Experts",
        reach=Reach.BY_LAYER,
        shared="shared_experts",
    ),
    FamilyAdapter(
        model_type="phimoe",
        tensors=_MIXTRAL,
        intermediate="intermediate_size",
        experts_class="PhimoeExperts",
        reach=Reach.WINDOW,
        router="router",
    ),
    _dense("llama", "LlamaMLP"),
    _dense("mistral", "MistralMLP", Reach.WINDOW),
    _dense("qwen3", "Qwen3MLP", Reach.BY_LAYER),
)

FAMILIES: Mapping[str, FamilyAdapter] = {family.model_type: family for family in _FAMILIES}
"""Every family by transformers' `model_type`."""


def adapter_for(config: Config | Mapping[str, Any]) -> FamilyAdapter:
    """The adapter of a model, by its configuration or by the document `config.json`.

    Raises:
        UnsupportedModelError: when the family is not among those above.
    """
    found = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    if found not in FAMILIES:
        raise UnsupportedModelError(
            f"models of type {found!r} are not supported",
            advice=f"supported are {', '.join(sorted(FAMILIES))}",
        )
    return FAMILIES[str(found)]
