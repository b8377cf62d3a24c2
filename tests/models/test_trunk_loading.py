"""Loading a trunk takes what it needs and nothing else: a missing, superfluous or misshapen tensor is an error by name, never a
random weight; nothing is printed; memory holds the trunk once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.mixtral import modeling_mixtral

from folkmoot.models.families import UnsupportedModelError
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import PreparedModel, PreparedModelError
from folkmoot.models.trunk import Trunk
from folkmoot.models.trunk_loading import TrunkLoadError
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.tiny_models import tiny_checkpoint

Tensors = dict[str, torch.Tensor]


def changed(family: str, folder: Path, change: Callable[[Tensors], object]) -> PreparedModel:
    """A tiny model whose checkpoint had its tensors changed before it was prepared."""
    file = tiny_checkpoint(family, folder / "checkpoint") / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return prepare(str(file.parent), folder / "prepared")


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("mixtral", "model.layers.1.self_attn.k_proj.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("llama", "model.norm.weight"),
        ("olmoe", "lm_head.weight"),
    ],
)
def test_a_missing_tensor_is_named(family: str, missing: str, tmp_path: Path) -> None:
    prepared = changed(family, tmp_path, lambda tensors: tensors.pop(missing))
    name = missing.replace("block_sparse_moe", "mlp")
    with pytest.raises(TrunkLoadError, match=f"lacks {name}: the checkpoint is incomplete"):
        Trunk.load(prepared)


def test_a_superfluous_tensor_is_named(tmp_path: Path) -> None:
    prepared = changed(
        "olmoe", tmp_path, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.zeros(3)})
    )
    with pytest.raises(TrunkLoadError, match=r"has no use for model\.layers\.0\.extra\.weight"):
        Trunk.load(prepared)


def test_a_misshapen_tensor_is_named(tmp_path: Path) -> None:
    prepared = changed(
        "olmoe", tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(3)})
    )
    with pytest.raises(TrunkLoadError, match=r"has in another shape model\.norm\.weight"):
        Trunk.load(prepared)


def test_layers_for_multi_token_prediction_are_left_alone(tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["model.layers.3.self_attn.o_proj.weight"] = torch.zeros(3)
        tensors["model.layers.3.mlp.experts.0.up_proj.weight"] = torch.zeros(3)

    Trunk.load(changed("deepseek_v3", tmp_path, add))


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    prepared = prepare(str(tiny_checkpoint("olmoe", tmp_path / "checkpoint")), tmp_path / "prepared")
    with (tmp_path / "checkpoint" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(PreparedModelError, match=r"model\.safetensors has become shorter"):
        Trunk.load(prepared)


def test_an_unsupported_model_is_refused_by_name(tiny_models: TinyModels, tmp_path: Path) -> None:
    prepared = prepare(str(tiny_models.get("olmoe").checkpoint), tmp_path / "prepared")
    document = json.loads((tmp_path / "prepared" / "config.json").read_text())
    document["model_type"] = "gpt2"
    (tmp_path / "prepared" / "config.json").write_text(json.dumps(document))
    with pytest.raises(UnsupportedModelError, match="'gpt2' are not supported"):
        Trunk.load(prepared)


def test_a_manifest_of_other_experts_is_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    prepared = prepare(str(tiny_models.get("olmoe").checkpoint), tmp_path / "prepared")
    document = json.loads((tmp_path / "prepared" / "config.json").read_text())
    document["num_experts"] = 9
    (tmp_path / "prepared" / "config.json").write_text(json.dumps(document))
    with pytest.raises(TrunkLoadError, match="are not those of its configuration"):
        Trunk.load(prepared)


def test_corrections_stay_in_float32_when_the_trunk_does_not(tiny_models: TinyModels) -> None:
    prepared = tiny_models.get("deepseek_v3").prepared
    trunk = Trunk.load(prepared, dtype=torch.bfloat16)
    published = dict(prepared.trunk_tensors())
    correction = published["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert torch.equal(trunk._layers[1].mlp.block.gate.e_score_correction_bias, correction)
    assert trunk._layers[1].self_attn.o_proj.weight.dtype == torch.bfloat16
    assert trunk.spec.dtype == torch.bfloat16


def test_loading_leaves_transformers_as_it_was_and_prints_nothing(
    tiny_models: TinyModels, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_models.get("mixtral")
    before = modeling_mixtral.MixtralExperts
    capfd.readouterr()
    Trunk.load(tiny.prepared)
    assert modeling_mixtral.MixtralExperts is before
    assert capfd.readouterr() == ("", "")
    assert any("experts" in name for name, _ in tiny.reference().named_parameters())


MEASURE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.trunk import Trunk

def kibibytes(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])

prepared = PreparedModel.open(Path(sys.argv[1]))
Trunk.load(PreparedModel.open(Path(sys.argv[2])))
before = kibibytes("VmRSS:")
trunk = Trunk.load(prepared, dtype=getattr(torch, sys.argv[3]))
print((kibibytes("VmHWM:") - before) * 1024)
"""


@pytest.fixture(scope="module")
def large(tiny_models: TinyModels) -> PreparedModel:
    return tiny_models.get("mixtral", hidden_size=256, vocab_size=40_000, intermediate_size=3072).prepared


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_holds_the_trunk_once_and_no_expert(
    dtype: str, large: PreparedModel, tiny_models: TinyModels, tmp_path: Path
) -> None:
    prepared = large
    trunk_bytes = (
        sum(tensor.numel() for _, tensor in prepared.trunk_tensors()) * getattr(torch, dtype).itemsize
    )
    assert prepared.manifest.total_expert_bytes > 1.5 * trunk_bytes
    small = tiny_models.get("mixtral").prepared.folder
    command = [sys.executable, "-c", MEASURE, str(prepared.folder), str(small), dtype]
    answer = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    largest = 40_000 * 256 * 4
    allowed = trunk_bytes * 1.15 + (0 if dtype == "float32" else 2 * largest) + (32 << 20)
    assert trunk_bytes * 0.9 <= int(answer.stdout) <= allowed, (answer.stdout, trunk_bytes)
