"""What a trunk tells the engine: what each layer caches, how long a context may be, what ends an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from folkmoot.models.prepare import prepare
from folkmoot.models.trunk import Trunk
from folkmoot.models.trunk_loading import TrunkLoadError
from folkmoot.models.trunk_spec import CacheSpec, TrunkSpec
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.tiny_models import tiny_checkpoint


def spec(tiny_models: TinyModels, family: str, **overrides: Any) -> TrunkSpec:
    return Trunk.load(tiny_models.get(family, **overrides).prepared).spec


def test_layers_with_and_without_a_window(tiny_models: TinyModels) -> None:
    assert spec(tiny_models, "gpt_oss").caches == (
        CacheSpec(kv_heads=2, key_dim=16, value_dim=16, window=16),
        CacheSpec(kv_heads=2, key_dim=16, value_dim=16),
    )


def test_chunks_in_layers_with_positions(tiny_models: TinyModels) -> None:
    caches = spec(tiny_models, "llama4_text").caches
    assert [cache.chunk for cache in caches] == [32, 32, 32, None]


def test_a_latent_is_kept_once_for_all_heads(tiny_models: TinyModels) -> None:
    (first, *_) = spec(tiny_models, "deepseek_v3").caches
    assert first == CacheSpec(kv_heads=1, key_dim=40, value_dim=32, value_in_key=True)


def test_sizes_are_the_model_s(tiny_models: TinyModels) -> None:
    found = spec(tiny_models, "qwen2_moe")
    assert (found.layers, found.moe_layers, found.vocab, found.context_length) == (3, (0, 2), 272, 512)
    assert len(found.caches) == 3


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize(
    ("family", "more", "length"),
    [
        ("llama", {"factor": 4.0}, 128),
        ("phimoe", {"short_mscale": 1.2, "long_mscale": 1.3}, 128),
        ("phimoe", {"short_mscale": 1.2, "long_mscale": 1.2}, 512),
    ],
)
def test_a_context_ends_where_positions_would_change_their_meaning(
    family: str, more: dict[str, float], length: int, tiny_models: TinyModels
) -> None:
    assert spec(tiny_models, family, rope_parameters={**LONGROPE, **more}).context_length == length


@pytest.mark.parametrize(("ends", "wanted"), [([257, 259], {257, 259}), (258, {258}), (None, set())])
def test_what_ends_an_answer_is_the_generation_configuration_s(
    ends: object, wanted: set[int], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "checkpoint")
    document = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**document, "eos_token_id": ends}))
    assert Trunk.load(prepare(str(folder), tmp_path / "prepared")).spec.eos_ids == wanted


def test_without_a_generation_configuration_the_model_s_own_counts(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "checkpoint")
    (folder / "generation_config.json").unlink()
    assert Trunk.load(prepare(str(folder), tmp_path / "prepared")).spec.eos_ids == {257}


def test_a_damaged_generation_configuration_is_named(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "checkpoint")
    prepared = prepare(str(folder), tmp_path / "prepared")
    (prepared.folder / "generation_config.json").write_text("{")
    with pytest.raises(TrunkLoadError, match=r"generation_config\.json cannot be read"):
        Trunk.load(prepared)
