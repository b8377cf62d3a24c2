"""`prepare` stores experts in any format that can be made: out of every layout, out of slices, GGUF and published quantized
forms. What is stored answers as the original within what the format loses, and exactly where it loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import Layout, WeightFormat
from folkmoot.kernels.quantize import MADE_HERE, QuantizationError, dequantize
from folkmoot.kernels.torch_expert import expert_forward
from folkmoot.models.local import LocalExperts
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.preparing.chosen_format import FormatError
from folkmoot.models.trunk import Trunk
from folkmoot.tests.support.gguf_files import write_gguf
from folkmoot.tests.support.published_forms import WEIGHTS, fp8_pair, mxfp4_pair
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.told_progress import ToldProgress
from folkmoot.tests.support.trunk_runner import packed_logits, random_tokens

LOSS = {
    WeightFormat.FLOAT32: 1e-6,
    WeightFormat.BFLOAT16: 5e-3,
    WeightFormat.INT8: 1.5e-2,
    WeightFormat.INT8_CHANNEL: 2.5e-2,
    WeightFormat.INT4: 0.2,
}
"""Relative error of an expert's answer for normally distributed weights, by format. A wrong order of rows gives 1 or more."""
LAYOUTS = {
    "mixtral": Layout.SEPARATE,
    "granitemoe": Layout.FUSED,
    "llama4_text": Layout.FUSED,
    "gpt_oss": Layout.INTERLEAVED_ROWS_BIASED,
    "llama": Layout.SEPARATE,
}
"""A family of each published layout, and a dense one; and how their experts are stored when they are written anew."""
EVEN = {"intermediate_size": 64}


def answers(model: PreparedModel) -> dict[ExpertKey, torch.Tensor]:
    """What each expert makes of the same eight rows, computed in float32."""
    rows = torch.randn(8, model.manifest.hidden, generator=torch.Generator().manual_seed(9))
    return {
        key: expert_forward(Expert.load(model.manifest.spec_of(key), model.read_expert(key)), rows)
        for key in model.manifest.experts
    }


def matrices(model: PreparedModel, key: ExpertKey) -> dict[str, torch.Tensor]:
    """An expert's gate, up and down in float32."""
    expert = Expert.load(model.manifest.spec_of(key), model.read_expert(key))
    return {role: dequantize(matrix) for role, matrix in expert.matrices.items()}


@pytest.mark.parametrize("form", list(LOSS))
@pytest.mark.parametrize("family", sorted(LAYOUTS))
def test_experts_of_every_layout_keep_their_meaning(family: str, form: WeightFormat, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint", **EVEN)
    plain = prepare(str(checkpoint), tmp_path / "plain")
    told = ToldProgress()
    made = prepare(str(checkpoint), tmp_path / "made", weight_format=form, progress=told)
    assert told.works[-1][1:] == (made.manifest.total_expert_bytes,) * 2
    assert {(spec.format, spec.layout) for spec in made.manifest.specs} == {(form, LAYOUTS[family])}
    assert made.manifest.dtype == plain.manifest.dtype == "float32"
    assert made.manifest.experts.keys() == plain.manifest.experts.keys()
    want = answers(plain)
    for key, got in answers(made).items():
        assert float((got - want[key]).norm() / want[key].norm()) <= LOSS[form], key


@pytest.mark.parametrize("family", ["llama4_text", "gpt_oss"])
def test_what_was_stored_by_columns_gives_the_same_logits_by_rows(family: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint")
    logits = []
    for name, form in (("plain", None), ("rows", "fp32")):
        model = prepare(str(checkpoint), tmp_path / name, weight_format=form)
        logits.extend(packed_logits(Trunk.load(model), LocalExperts(model), [random_tokens(30, 1)]))
    assert torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_published_forms_can_be_stored_in_others(tmp_path: Path) -> None:
    fp8, _ = fp8_pair("deepseek_v3", tmp_path / "fp8", moe_intermediate_size=160, hidden_size=192)
    mxfp4, _ = mxfp4_pair(tmp_path / "mxfp4")
    for source, form, loss in ((fp8, "int8", LOSS[WeightFormat.INT8]), (mxfp4, "bf16", 1e-6)):
        want = answers(prepare(str(source), tmp_path / f"{form}-plain"))
        made = prepare(str(source), tmp_path / form, weight_format=form)
        for key, got in answers(made).items():
            assert float((got - want[key]).norm() / want[key].norm()) <= loss, key


@pytest.mark.parametrize(
    ("kind", "form"),
    [(GGMLQuantizationType.Q4_1, WeightFormat.INT4), (GGMLQuantizationType.Q8_0, WeightFormat.INT8)],
)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_gguf_of_the_same_kind_loses_nothing(
    kind: GGMLQuantizationType, form: WeightFormat, family: str, tmp_path: Path
) -> None:
    sizes = EVEN if family == "llama" else {"moe_intermediate_size": 64}
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint", **sizes)
    path = write_gguf(checkpoint, tmp_path / "model.gguf", kind=kind)
    plain = prepare(str(path), tmp_path / "plain", dtype="float32")
    made = prepare(str(path), tmp_path / "made", dtype="float32", weight_format=form)
    assert {spec.format for spec in made.manifest.specs} == {form}
    for key in made.manifest.experts:
        want = matrices(plain, key)
        for role, got in matrices(made, key).items():
            assert torch.allclose(got, want[role], rtol=1e-6, atol=1e-7), (key, role)


@pytest.mark.parametrize("form", MADE_HERE)
def test_bytes_are_the_same_whenever_they_are_made(form: WeightFormat, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("mixtral", tmp_path / "checkpoint", **EVEN)
    made = [prepare(str(checkpoint), tmp_path / name / "model", weight_format=form) for name in ("a", "b")]
    assert made[0].manifest.digest == made[1].manifest.digest


def test_a_format_is_part_of_the_order_and_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLKMOOT_HOME", str(tmp_path / "home"))
    checkpoint = tiny_checkpoint("mixtral", tmp_path / "tiny", **EVEN)
    plain, made = prepare(str(checkpoint)), prepare(str(checkpoint), weight_format="int8")
    assert (plain.name, made.name) == ("tiny", "tiny-int8")
    out = tmp_path / "out"
    digests = [
        prepare(str(checkpoint), out, weight_format=form).manifest.digest
        for form in ("int8", "int8", "int4", "bf16", "bfloat16")
    ]
    assert digests[0] == digests[1] != digests[2] != digests[3] == digests[4]


def test_sizes_that_no_groups_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("mixtral", tmp_path / "checkpoint", intermediate_size=48)
    for form in ("int8", "int4"):
        with pytest.raises(FormatError, match="groups of 32 .* do not divide experts of 64 x 48") as error:
            prepare(str(checkpoint), tmp_path / "out", weight_format=form)
        assert "int8_channel" in error.value.advice
    made = prepare(str(checkpoint), tmp_path / "out", weight_format="int8_channel")
    assert made.manifest.specs[0].format is WeightFormat.INT8_CHANNEL
    dense = tiny_checkpoint("llama", tmp_path / "dense", intermediate_size=96)
    with pytest.raises(FormatError, match="do not divide experts of 64 x 24"):
        prepare(str(dense), tmp_path / "slices", slices=4, weight_format="int4")


@pytest.mark.parametrize("name", ["int3", "mxfp4", "fp8_block", ""])
def test_a_format_that_is_not_made_here_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be stored in") as error:
        prepare(str(tmp_path), tmp_path / "out", weight_format=name)
    assert "int8_channel" in error.value.advice and "--format" in error.value.advice


@pytest.mark.parametrize("family", ["mixtral", "llama"])
def test_a_weight_that_is_no_number_is_named_and_nothing_is_left(family: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint", **EVEN)
    tensors = load_file(checkpoint / WEIGHTS)
    name = {
        "mixtral": "model.layers.1.block_sparse_moe.experts.3.w2.weight",
        "llama": "model.layers.1.mlp.down_proj.weight",
    }[family]
    tensors[name][5, 7] = float("nan")
    save_file(tensors, checkpoint / WEIGHTS, {"format": "pt"})
    with pytest.raises(QuantizationError, match="layer 1 expert .*infinite or not a number"):
        prepare(str(checkpoint), tmp_path / "out", weight_format="int8")
    assert not (tmp_path / "out").exists()


def test_inspect_shows_the_format(tmp_path: Path) -> None:
    from folkmoot.cli.model import facts_of

    checkpoint = tiny_checkpoint("mixtral", tmp_path / "checkpoint", **EVEN)
    facts: dict[str, Any] = facts_of(prepare(str(checkpoint), tmp_path / "out", weight_format="int4"))
    assert facts["format"] == "int4" and facts["activation_dtype"] == "float32"
    assert facts["bytes"] == 16 * 3 * 64 * 64 * 5 // 8
