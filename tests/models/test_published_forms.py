"""Checkpoints published in fp8 and mxfp4 are read as they are, and mean what transformers' own dequantization makes of them:
weights to the bit, logits of trunk and experts to 1e-5 through torch, whose float32 rounds nothing else, and to 1e-3 through
whatever kernels run here. Nothing is copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from folkmoot.ids import ExpertKey
from folkmoot.kernels import native_feed_forward
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import WeightFormat
from folkmoot.kernels.matrix import Matrix
from folkmoot.kernels.quantize import dequantize
from folkmoot.models.local import LocalExperts
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.safetensors_header import CheckpointError
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.published_forms import WEIGHTS, fp8_blocks, fp8_pair, mxfp4_pair
from folkmoot.tests.support.trunk_runner import packed_logits, random_tokens

EXACT, HONEST = 1e-5, 1e-3
RAGGED: dict[str, Any] = {
    "hidden_size": 192,
    "moe_intermediate_size": 144,
    "intermediate_size": 272,
    "kv_lora_rank": 128,
    "n_shared_experts": 2,
}
"""Sizes that are no multiples of 128, as DeepSeek-V3's 576 is not."""


def agree(prepared: PreparedModel, twin: Path, tolerance: float) -> None:
    trunk, pool = Trunk.load(prepared, dtype=torch.float32), LocalExperts(prepared)
    reference = AutoModelForCausalLM.from_pretrained(twin, dtype=torch.float32, attn_implementation="eager")
    sequences = [random_tokens(length, length) for length in (40, 17)]
    for logits, sequence in zip(packed_logits(trunk, pool, sequences), sequences, strict=True):
        with torch.inference_mode():
            want = reference(sequence.unsqueeze(0)).logits[0]
        assert float((logits - want).abs().max()) <= tolerance * float(want.abs().max())


@pytest.fixture(params=["torch alone", "what runs here"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    if request.param != "torch alone":
        return HONEST
    monkeypatch.setattr(native_feed_forward, "load", lambda: None)
    return EXACT


@pytest.mark.parametrize("sizes", [{}, RAGGED], ids=["small", "ragged"])
def test_fp8_gives_the_logits_of_transformers(
    sizes: dict[str, Any], tolerance: float, tmp_path: Path
) -> None:
    published, twin = fp8_pair("deepseek_v3", tmp_path, **sizes)
    prepared = prepare(str(published), tmp_path / "prepared")
    assert {spec.format for spec in prepared.manifest.specs} == {WeightFormat.FP8_BLOCK}
    assert not list(prepared.folder.glob("*.safetensors"))
    agree(prepared, twin, tolerance)


@pytest.mark.parametrize("form", [None, "fp32"])
def test_a_dense_model_in_fp8_is_cut_into_what_transformers_makes_of_it(
    form: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_feed_forward, "load", lambda: None)
    published, twin = fp8_pair("llama", tmp_path, intermediate_size=288, hidden_size=192)
    prepared = prepare(str(published), tmp_path / "prepared", slices=3, weight_format=form)
    assert {spec.format for spec in prepared.manifest.specs} == {WeightFormat.FLOAT32}
    agree(prepared, twin, EXACT)


def test_mxfp4_gives_the_logits_of_transformers(tolerance: float, tmp_path: Path) -> None:
    published, twin = mxfp4_pair(tmp_path)
    prepared = prepare(str(published), tmp_path / "prepared")
    assert {spec.format for spec in prepared.manifest.specs} == {WeightFormat.MXFP4}
    assert not list(prepared.folder.glob("*.safetensors"))
    agree(prepared, twin, tolerance)


@pytest.mark.parametrize("shape", [(128, 256), (64, 128), (384, 96)])
def test_fp8_means_what_transformers_makes_of_it(shape: tuple[int, int]) -> None:
    values, scales = fp8_blocks(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    want = Fp8Dequantize(None)._dequantize_one(values, scales, torch.float32)
    assert torch.equal(dequantize(Matrix(WeightFormat.FP8_BLOCK, values, scales)), want)


def test_mxfp4_means_what_transformers_makes_of_it() -> None:
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randint(0, 256, (2, 40, 3, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(0, 250, (2, 40, 3), generator=generator, dtype=torch.uint8)
    want = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # [E, K, N]
    for expert in range(2):
        got = dequantize(Matrix(WeightFormat.MXFP4, blocks[expert], scales[expert]))
        assert torch.equal(got, want[expert].T)


def test_an_expert_of_a_tensor_of_all_is_the_right_one(tmp_path: Path) -> None:
    published, _ = mxfp4_pair(tmp_path)
    prepared = prepare(str(published), tmp_path / "prepared")
    tensors = load_file(published / WEIGHTS)
    key = ExpertKey(1, 5)
    expert = Expert.load(prepared.manifest.spec_of(key), prepared.read_expert(key))
    start = "model.layers.1.mlp.experts."
    assert torch.equal(expert.weights["gate_up"], tensors[f"{start}gate_up_proj_blocks"][5])
    assert torch.equal(expert.weights["down_scales"], tensors[f"{start}down_proj_scales"][5])
    assert torch.equal(expert.weights["gate_up_bias"], tensors[f"{start}gate_up_proj_bias"][5])


EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_b_proj.weight"


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        (f"{EXPERT}_scale_inv", lambda scales: None, f"lacks the tensor {EXPERT}_scale_inv"),
        (f"{EXPERT}_scale_inv", lambda scales: scales[:0], r"is \[0, 1\] for an expert, but"),
        (f"{EXPERT}_scale_inv", lambda scales: scales.bfloat16(), "is of type BF16, but its format has F32"),
        (EXPERT, lambda values: values.float(), "are of types float32, fp8_block"),
        (f"{QUERY}_scale_inv", lambda scales: None, f"{QUERY} in .* lacks its scales"),
        (f"{QUERY}_scale_inv", lambda scales: scales.repeat(2, 1), f"{QUERY} in .* lacks its scales"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(name: str, change: Any, line: str, tmp_path: Path) -> None:
    published, _ = fp8_pair("deepseek_v3", tmp_path)
    tensors = load_file(published / WEIGHTS)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, published / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match=line):
        prepare(str(published), tmp_path / "prepared")
