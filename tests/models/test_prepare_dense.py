"""A dense model is cut into slices that together are the whole, whatever their number; the trunk stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import silu

from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.models.prepare import prepare
from folkmoot.models.preparing.slicing import SlicesError, choose_slices
from folkmoot.tests.support.expert_tensors import expert_tensors
from folkmoot.tests.support.tiny_models import tiny_checkpoint
from folkmoot.tests.support.told_progress import ToldProgress

DENSE = ("llama", "mistral", "qwen3")


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("slices", [1, 4, 96])
def test_slices_put_together_are_the_published_tensors(family: str, slices: int, tmp_path: Path) -> None:
    source = tiny_checkpoint(family, tmp_path / "source", dtype=torch.bfloat16)
    model = prepare(str(source), tmp_path / "out", slices=slices)
    tensors = load_file(source / "model.safetensors")
    assert (model.manifest.sliced, model.manifest.top_k, model.manifest.dtype) == (True, slices, "bfloat16")
    for layer, keys in model.manifest.layers.items():
        assert len(keys) == slices
        found = [expert_tensors(model, key) for key in keys]
        for role, axis in (("gate", 0), ("up", 0), ("down", 1)):
            whole = tensors.pop(f"model.layers.{layer}.mlp.{role}_proj.weight")
            assert torch.equal(torch.cat([slice_[role] for slice_ in found], axis), whole)
    trunk = dict(model.trunk_tensors())
    assert trunk.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trunk.items())


def test_the_sum_of_all_slices_is_the_feed_forward(tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", tmp_path / "source")
    model = prepare(str(source), tmp_path / "out", slices=6)
    tensors = load_file(source / "model.safetensors")
    gate, up, down = (tensors[f"model.layers.1.mlp.{role}_proj.weight"] for role in ("gate", "up", "down"))
    hidden = torch.randn(5, 64)
    rows, ones = torch.arange(5), torch.ones(5)
    experts = [
        Expert.load(model.manifest.spec_of(key), model.read_expert(key)) for key in model.manifest.layers[1]
    ]
    result = feed_forward([Group(expert, rows, ones) for expert in experts], hidden)
    torch.testing.assert_close(
        result, (silu(hidden @ gate.T) * (hidden @ up.T)) @ down.T, atol=1e-5, rtol=1e-5
    )


def test_slices_may_be_written_in_another_type(tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", tmp_path / "source")
    model = prepare(str(source), tmp_path / "out", slices=2, dtype="float16")
    up = load_file(source / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    found = [expert_tensors(model, key)["up"] for key in model.manifest.layers[0]]
    assert torch.equal(torch.cat(found), up.half())
    assert model.manifest.dtype == "float16"


def test_slices_are_the_same_out_of_shards(tmp_path: Path) -> None:
    one = prepare(str(tiny_checkpoint("llama", tmp_path / "one")), tmp_path / "out-one")
    shards = tiny_checkpoint("llama", tmp_path / "shards", max_shard_size="60KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    many = prepare(str(shards), tmp_path / "out-many")
    assert [entry.sha256 for entry in one.manifest.experts.values()] == [
        entry.sha256 for entry in many.manifest.experts.values()
    ]


def test_the_trunk_is_not_copied(tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", tmp_path / "source", vocab_size=20_000)
    model = prepare(str(source), tmp_path / "out")
    written = sum(path.stat().st_size for path in model.folder.glob("*.safetensors"))
    assert 0 < written - model.manifest.total_expert_bytes < 20_000
    assert sum(tensor.nbytes for _, tensor in model.trunk_tensors()) > 10_000_000


def test_a_prepared_model_moves_with_its_slices(tmp_path: Path) -> None:
    model = prepare(str(tiny_checkpoint("llama", tmp_path / "source")), tmp_path / "out")
    before = {key: model.read_expert(key) for key in model.manifest.experts}
    moved = model.folder.rename(tmp_path / "elsewhere")
    again = type(model).open(moved)
    assert {key: again.read_expert(key) for key in again.manifest.experts} == before


def test_progress_covers_every_slice(tmp_path: Path) -> None:
    told = ToldProgress()
    model = prepare(str(tiny_checkpoint("llama", tmp_path / "source")), tmp_path / "out", progress=told)
    total = model.manifest.total_expert_bytes
    assert told.works == [("Cutting into 3 slices a layer", total, total)]


@pytest.mark.parametrize(
    ("intermediate", "expected"), [(1536, 8), (14336, 8), (11008, 8), (96, 3), (30, 6), (11, 1), (64, 2)]
)
def test_the_number_of_slices_suits_the_width(intermediate: int, expected: int) -> None:
    assert choose_slices(intermediate, None) == expected


@pytest.mark.parametrize("slices", [0, -1, 5, 97, 192])
def test_slices_that_do_not_fit_are_refused(slices: int, tmp_path: Path) -> None:
    source = tiny_checkpoint("llama", tmp_path / "source")
    with pytest.raises(SlicesError, match=rf"of 96 cannot be cut into {slices} equal.*1, 2, 3, 4, 6, 8, 12"):
        prepare(str(source), tmp_path / "out", slices=slices)
    assert not (tmp_path / "out").exists()
