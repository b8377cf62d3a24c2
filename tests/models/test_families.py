"""Every family's adapter agrees with the checkpoints that transformers writes: names, shapes, counts; what cannot be computed
exactly is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoConfig

from folkmoot.kernels.formats import Activation
from folkmoot.models.families import FAMILIES, UnsupportedModelError, adapter_for
from folkmoot.tests.support.tiny_models import FAMILIES as TINY
from folkmoot.tests.support.tiny_models import tiny_checkpoint


def test_every_family_has_a_tiny_model() -> None:
    assert set(FAMILIES) == set(TINY)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_names_and_shapes_are_those_on_disk(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(family, tmp_path, tokenizer=False)
    config = AutoConfig.from_pretrained(folder)
    adapter = adapter_for(config)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        named: set[str] = set()
        for layer in adapter.moe_layers(config):
            spec = adapter.spec(config, "float32", layer)
            count = adapter.expert_count(config, layer)
            for expert in range(count):
                disk = adapter.on_disk(config, layer, expert)
                assert len(disk) == len(spec.tensors())
                for place, tensor in zip(disk, spec.tensors(), strict=True):
                    shape = tuple(file.get_slice(place.name).get_shape())
                    if place.index is not None:
                        assert (place.index, shape[0]) == (expert, count)
                        shape = shape[1:]
                    assert shape == tensor.shape, place
                    named.add(place.name)
    assert named == {name for name in names if adapter.is_expert_tensor(name)}
    assert {name for name in names if adapter.is_trunk_tensor(config, name)} == names - named
    assert 1 <= adapter.top_k(config) <= adapter.expert_count(config, adapter.moe_layers(config)[0])


def test_layers_for_multi_token_prediction_belong_to_nothing() -> None:
    config = CONFIG_MAPPING["deepseek_v3"](num_hidden_layers=3)
    adapter = adapter_for(config)
    assert adapter.is_trunk_tensor(config, "model.layers.2.self_attn.o_proj.weight")
    assert not adapter.is_trunk_tensor(config, "model.layers.3.self_attn.o_proj.weight")
    assert not adapter.is_trunk_tensor(config, "model.layers.2.mlp.experts.0.up_proj.weight")
    assert adapter.is_trunk_tensor(config, "model.layers.2.mlp.shared_experts.up_proj.weight")
    assert 3 not in adapter.moe_layers(config)


def test_an_unsupported_family_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' are not supported.*olmoe"):
        adapter_for(CONFIG_MAPPING["gpt2"]())
    with pytest.raises(UnsupportedModelError, match="'qwen9'"):
        adapter_for({"model_type": "qwen9"})
    with pytest.raises(UnsupportedModelError, match="None"):
        adapter_for({})


def test_biases_in_a_feed_forward_are_refused() -> None:
    config = CONFIG_MAPPING["llama"](mlp_bias=True)
    with pytest.raises(UnsupportedModelError, match="mlp_bias"):
        adapter_for(config).spec(config, "bfloat16", 0)


def test_activations_are_known_or_refused() -> None:
    def activation(name: str) -> Activation:
        config = CONFIG_MAPPING["llama"](hidden_act=name)
        return adapter_for(config).spec(config, "bfloat16", 0).activation

    assert activation("silu") is Activation.SWIGLU
    assert activation("gelu_pytorch_tanh") is Activation.GEGLU_TANH
    with pytest.raises(UnsupportedModelError, match="'relu2'"):
        activation("relu2")


def test_clamps_are_those_of_the_configuration() -> None:
    config = CONFIG_MAPPING["gpt_oss"](swiglu_alpha=1.5, swiglu_limit=3.0)
    spec = adapter_for(config).spec(config, "bfloat16", 0)
    assert (spec.activation, spec.alpha, spec.limit) == (Activation.CLAMPED_SWIGLU, 1.5, 3.0)
