"""A GGUF file is prepared into the weights, configuration and tokenizer that transformers reads from it; one that would
give other answers is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from folkmoot.models.prepare import prepare
from folkmoot.models.safetensors_header import CheckpointError, DamagedFileError, TruncatedFileError
from folkmoot.tests.support.expert_tensors import expert_tensors
from folkmoot.tests.support.gguf_files import ARCHITECTURES, write_gguf
from folkmoot.tests.support.tiny_models import SPECIAL, tiny_checkpoint

Q8 = GGMLQuantizationType.Q8_0


OVERRIDES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"mlp_only_layers": [], "moe_intermediate_size": 64, "shared_expert_intermediate_size": 96},
    "qwen3_moe": {"moe_intermediate_size": 64},
}
"""Sizes that blocks of 32 fit into."""


def gguf(family: str, folder: Path, **options: object) -> Path:
    checkpoint = tiny_checkpoint(family, folder / "source", **OVERRIDES.get(family, {}))
    return write_gguf(checkpoint, folder / "tiny.gguf", **options)  # type: ignore[arg-type]


def as_transformers_reads(path: Path) -> dict[str, torch.Tensor]:
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tensors: dict[str, torch.Tensor] = load_gguf_checkpoint(
        str(path), return_tensors=True, model_to_load=model
    )["tensors"]
    return tensors


@pytest.mark.parametrize("kind", [GGMLQuantizationType.F32, GGMLQuantizationType.F16, Q8])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_float32_weights_are_bit_for_bit_what_transformers_reads(
    family: str, kind: GGMLQuantizationType, tmp_path: Path
) -> None:
    path = gguf(family, tmp_path, kind=kind)
    model = prepare(str(path), tmp_path / "out", dtype="float32")
    expected = as_transformers_reads(path)
    trunk = dict(model.trunk_tensors())
    for name, tensor in trunk.items():
        assert torch.equal(tensor, expected[name]), name
    experts = {name for name in expected if name not in trunk}
    assert experts == {
        name for name in expected if ".mlp.experts" in name or (model.manifest.sliced and ".mlp." in name)
    }
    for layer, keys in model.manifest.layers.items():
        weights = [expert_tensors(model, key) for key in keys]
        start = f"model.layers.{layer}.mlp."
        if model.manifest.sliced:
            assert torch.equal(torch.cat([w["gate"] for w in weights]), expected[start + "gate_proj.weight"])
            assert torch.equal(torch.cat([w["up"] for w in weights]), expected[start + "up_proj.weight"])
            assert torch.equal(
                torch.cat([w["down"] for w in weights], 1), expected[start + "down_proj.weight"]
            )
        else:
            fused = torch.stack([torch.cat([w["gate"], w["up"]]) for w in weights])
            assert torch.equal(fused, expected[start + "experts.gate_up_proj"])
            assert torch.equal(
                torch.stack([w["down"] for w in weights]), expected[start + "experts.down_proj"]
            )


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_model_is_the_one_that_was_converted(family: str, tmp_path: Path) -> None:
    path = gguf(family, tmp_path)
    model = prepare(str(path), tmp_path / "out", dtype="float32")
    original = AutoConfig.from_pretrained(tmp_path / "source").to_dict()
    found = model.config.to_dict()
    ignored = {"_name_or_path", "architectures", "rms_norm_eps"}
    assert {key for key in original if found.get(key) != original[key]} <= ignored
    assert model.config.rms_norm_eps == pytest.approx(original["rms_norm_eps"])


def test_weights_are_rounded_once_to_bfloat16_by_default(tmp_path: Path) -> None:
    path = gguf("llama", tmp_path, kind=Q8)
    model = prepare(str(path), tmp_path / "out")
    expected = as_transformers_reads(path)
    assert model.manifest.dtype == "bfloat16"
    assert model.config.dtype is torch.bfloat16
    for name, tensor in model.trunk_tensors():
        assert torch.equal(tensor, expected[name].bfloat16()), name


def test_tokenizer_and_template_come_along(tmp_path: Path) -> None:
    model = prepare(str(gguf("llama", tmp_path)), tmp_path / "out")
    tokenizer = model.tokenizer()
    text = "hello, wörld\n  2 + 2 = 4"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == f"{SPECIAL[0]}{SPECIAL[2]}hi{SPECIAL[1]}{SPECIAL[3]}"
    assert model.config.eos_token_id == 257


def test_large_tensors_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf("llama", tmp_path)
    whole = prepare(str(path), tmp_path / "whole", dtype="float32")
    monkeypatch.setattr("folkmoot.models.preparing.gguf_weights.CHUNK_BYTES", 1000)
    monkeypatch.setattr("folkmoot.models.preparing.gguf_model.CHUNK_BYTES", 3000)
    pieces = prepare(str(path), tmp_path / "pieces", dtype="float32")
    expected = dict(whole.trunk_tensors())
    assert all(torch.equal(expected[name], tensor) for name, tensor in pieces.trunk_tensors())
    assert [entry.sha256 for entry in pieces.manifest.experts.values()] == [
        entry.sha256 for entry in whole.manifest.experts.values()
    ]


def llama3_factors(factor: float) -> np.ndarray:
    """As llama.cpp's converter computes them, for heads of 16 and a base of 10,000."""
    frequencies = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    factors = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        smooth = (8192 / wavelength - 1) / (4 - 1)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_positions_are_recognised_by_their_factors(factor: float, tmp_path: Path) -> None:
    path = gguf("llama", tmp_path, tensors={"rope_freqs.weight": llama3_factors(factor)})
    rope = prepare(str(path), tmp_path / "out").config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == (
        "llama3",
        factor,
        8192,
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tensors": {"rope_freqs.weight": llama3_factors(5.0)}}, "rope_freqs.weight"),
        ({"tensors": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}, "blk.0.attn_q.bias"),
        ({"metadata": {"rope.scaling.type": "yarn"}}, "yarn"),
        ({"metadata": {"rope.dimension_count": 8}}, "part of each head"),
        ({"metadata": {"expert_count": 8}}, "Mixtral"),
        ({"metadata": {"block_count": 0}}, "block_count"),
        ({"metadata": {"embedding_length": 3.5}}, "embedding_length"),
        ({"metadata": {"feed_forward_length": 64}}, "gate_proj"),
        ({"metadata": {"attention.head_count_kv": 3}}, "attn_k.weight"),
        ({"metadata": {"block_count": 3}}, "model.layers.2"),
    ],
)
def test_what_cannot_be_carried_over_is_named(options: dict[str, object], named: str, tmp_path: Path) -> None:
    path = gguf("llama", tmp_path, **options)
    with pytest.raises(CheckpointError, match=named) as caught:
        prepare(str(path), tmp_path / "out")
    assert caught.value.advice
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_model_is_recognised(tmp_path: Path) -> None:
    path = gguf("llama", tmp_path, general={"split.count": 3})
    with pytest.raises(CheckpointError, match="one of 3 parts of a model: put the parts together"):
        prepare(str(path), tmp_path / "out")


def test_other_architectures_are_named(tmp_path: Path) -> None:
    path = gguf("llama", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"llama", b"gemma"))
    with pytest.raises(CheckpointError, match="'gemma'.*llama, qwen3, qwen2moe, qwen3moe"):
        prepare(str(path), tmp_path / "out")


@pytest.mark.parametrize("kept", [4, 8, 30, 500, 20_000, -1])
def test_truncated_files_are_named(kept: int, tmp_path: Path) -> None:
    path = gguf("llama", tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TruncatedFileError, match=r"tiny\.gguf is truncated.*download it again"):
        prepare(str(path), tmp_path / "out")


def test_missing_bytes_are_counted(tmp_path: Path) -> None:
    path = gguf("llama", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-77])
    with pytest.raises(TruncatedFileError, match=rf"77 of {len(data)} bytes are missing"):
        prepare(str(path), tmp_path / "out")


@pytest.mark.parametrize("offset", [8, 16, 24])
def test_a_header_that_announces_too_much_costs_nothing(offset: int, tmp_path: Path) -> None:
    path = gguf("llama", tmp_path)
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = (1 << 60).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises((TruncatedFileError, DamagedFileError)):
        prepare(str(path), tmp_path / "out")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a model")
    with pytest.raises(DamagedFileError, match="neither a checkpoint folder nor a GGUF file"):
        prepare(str(path), tmp_path / "out")


def test_a_version_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = gguf("llama", tmp_path)
    data = bytearray(path.read_bytes())
    data[4:8] = (9).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="version 9"):
        prepare(str(path), tmp_path / "out")
