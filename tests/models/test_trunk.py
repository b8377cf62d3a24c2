"""Every family's trunk with `LocalExperts` is the model: the logits of packed sequences, and greedy tokens, are those that
transformers gives each sequence alone. Sequences are longer than every window and chunk of the tiny models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from folkmoot.models.families import FAMILIES
from folkmoot.models.local import LocalExperts
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.trunk_runner import greedy, packed_logits, random_tokens

TOLERANCE = 1e-5
LENGTHS = (75, 41)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "mixtral with a window": ("mixtral", {"sliding_window": 16}),
    "qwen3_moe with a window": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 16}),
    "phimoe with a window": ("phimoe", {"sliding_window": 16}),
    "qwen2_moe with windows in some layers": (
        "qwen2_moe",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    ),
    "dots1 with windows in some layers": ("dots1", {"sliding_window": 16, "max_window_layers": 1}),
    "qwen3 with windows in some layers": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "deepseek_v2 without a query latent": (
        "deepseek_v2",
        {"q_lora_rank": None, "topk_method": "greedy"},
    ),
    "deepseek_v3 without interleaved positions": ("deepseek_v3", {"rope_interleave": False}),
    "llama4_text with two experts a token": ("llama4_text", {"num_experts_per_tok": 2}),
    "olmoe with clipped projections": ("olmoe", {"clip_qkv": 0.5, "norm_topk_prob": True}),
    "ernie4_5_moe without a shared expert": ("ernie4_5_moe", {"moe_num_shared_experts": 0}),
    "llama with tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "granitemoe with tied embeddings": ("granitemoe", {"tie_word_embeddings": True}),
}


@pytest.fixture(params=sorted(VARIANTS))
def tiny(request: pytest.FixtureRequest, tiny_models: TinyModels) -> TinyModel:
    family, overrides = VARIANTS[request.param]
    return tiny_models.get(family, **overrides)


def test_packed_logits_and_greedy_tokens_are_those_of_transformers(tiny: TinyModel) -> None:
    trunk, pool = Trunk.load(tiny.prepared), LocalExperts(tiny.prepared)
    reference = tiny.reference()
    sequences = [random_tokens(length, seed) for seed, length in enumerate(LENGTHS)]

    for logits, sequence in zip(packed_logits(trunk, pool, sequences), sequences, strict=True):
        with torch.inference_mode():
            wanted = reference(sequence[None]).logits[0]
        assert logits.dtype == torch.float32
        # Absorbed latent attention sums other products than transformers does, so the two do not share float32's own error,
        # which is 8e-6 in either of them against float64; it grows with the logits, so they are the measure there.
        measure = float(wanted.abs().max()) if trunk.spec.caches[0].value_in_key else 1.0
        assert float((logits - wanted).abs().max()) <= TOLERANCE * measure

    prompt = sequences[1]
    wanted = reference.generate(
        prompt[None], attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=12
    )
    assert greedy(trunk, pool, prompt, 12) == wanted[0, len(prompt) :].tolist()


def test_a_trunk_has_the_parameters_of_its_tensors_and_no_expert(tiny: TinyModel) -> None:
    trunk = Trunk.load(tiny.prepared)
    held = {
        tensor.data_ptr(): tensor.numel()
        for module in (trunk._embed, *trunk._layers, trunk._norm, trunk._head)
        for tensor in (*module.parameters(), *module.buffers())
    }
    published = sum(tensor.numel() for _, tensor in tiny.prepared.trunk_tensors())
    assert sum(held.values()) == published
    assert trunk.spec.moe_layers == tuple(tiny.prepared.manifest.layers)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_trunk_computes_in_bfloat16_as_transformers_does(family: str, tiny_models: TinyModels) -> None:
    tiny = tiny_models.get(family, dtype=torch.bfloat16)
    trunk, pool = Trunk.load(tiny.prepared), LocalExperts(tiny.prepared)
    assert trunk.spec.dtype == torch.bfloat16
    sequence = random_tokens(60, 0)
    with torch.inference_mode():
        wanted = tiny.reference(torch.bfloat16)(sequence[None]).logits[0].float()
    (logits,) = packed_logits(trunk, pool, [sequence])
    # Where rounding tips a router to another expert a token is far off, in either of them; so the middle token counts.
    error = (logits - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert float(error.median()) < 0.04
