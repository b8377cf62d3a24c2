"""Preparing a safetensors model copies no weight, lists every expert with its true bytes, and says what is wrong with a
source that cannot be prepared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Llama4Config, Llama4ForConditionalGeneration

from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey
from folkmoot.models.checkpoint import NoSuchModelError
from folkmoot.models.families import UnsupportedModelError, adapter_for
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import MANIFEST, PreparedModel
from folkmoot.models.preparing.slicing import SlicesError
from folkmoot.models.safetensors_header import CheckpointError, TruncatedFileError
from folkmoot.models.source_table import SOURCE
from folkmoot.tests.support.expert_tensors import expert_tensors
from folkmoot.tests.support.tiny_models import FAMILIES, tiny_checkpoint, tiny_tokenizer
from folkmoot.tests.support.told_progress import ToldProgress

DENSE = ("llama", "mistral", "qwen3")
MIXTURES = tuple(family for family in FAMILIES if family not in DENSE)


def published(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.name != "tokenizer.json")


def edited_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_and_trunk_are_the_published_tensors(family: str, tmp_path: Path) -> None:
    source = tiny_checkpoint(family, tmp_path / "source", dtype=torch.bfloat16)
    model = prepare(str(source), tmp_path / "out")
    adapter, tensors = adapter_for(model.config), published(source)
    assert (model.manifest.family, model.manifest.dtype, model.manifest.sliced) == (family, "bfloat16", False)
    assert model.manifest.top_k == adapter.top_k(model.config)
    taken = set()
    for key, entry in model.manifest.experts.items():
        assert hashlib.sha256(model.read_expert(key)).hexdigest() == entry.sha256
        for disk, tensor in zip(
            adapter.on_disk(model.config, *key), expert_tensors(model, key).values(), strict=True
        ):
            expected = tensors[disk.name] if disk.index is None else tensors[disk.name][disk.index]
            assert torch.equal(tensor, expected)
            taken.add(disk.name)
    trunk = dict(model.trunk_tensors())
    assert trunk.keys() | taken == tensors.keys()
    assert not trunk.keys() & taken
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trunk.items())


@pytest.mark.parametrize("family", ["mixtral", "granitemoe", "gpt_oss"])
def test_no_weight_is_copied(family: str, tmp_path: Path) -> None:
    source = tiny_checkpoint(family, tmp_path / "source", hidden_size=256)
    before = {path.name: path.stat().st_mtime_ns for path in source.iterdir()}
    model = prepare(str(source), tmp_path / "out")
    assert model.manifest.total_expert_bytes > 1_000_000
    assert size_of(model.folder) < 30_000
    assert not list(model.folder.glob("*.safetensors"))
    assert {path.name: path.stat().st_mtime_ns for path in source.iterdir()} == before


@pytest.mark.parametrize("family", ["mixtral", "granitemoe"])
def test_shards_and_one_file_give_the_same_experts(family: str, tmp_path: Path) -> None:
    one = prepare(str(tiny_checkpoint(family, tmp_path / "one")), tmp_path / "out-one")
    shards = tiny_checkpoint(family, tmp_path / "shards", max_shard_size="100KB")
    many = prepare(str(shards), tmp_path / "out-many")
    assert len(many.manifest.files) > 1 == len(one.manifest.files)
    assert [entry.sha256 for entry in one.manifest.experts.values()] == [
        entry.sha256 for entry in many.manifest.experts.values()
    ]
    assert dict(one.trunk_tensors()).keys() == dict(many.trunk_tensors()).keys()


def test_the_wrapper_of_llama4_is_read_for_its_language_model(tmp_path: Path) -> None:
    plain = tiny_checkpoint("llama4_text", tmp_path / "plain")
    text = json.loads((plain / "config.json").read_text())
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision |= {
        "image_size": 28,
        "patch_size": 14,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
    }
    model = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path / "wrapped")
    tiny_tokenizer().save_pretrained(tmp_path / "wrapped")
    wrapped = prepare(str(tmp_path / "wrapped"), tmp_path / "out")
    direct = prepare(str(plain), tmp_path / "out-plain")
    assert wrapped.manifest.experts.keys() == direct.manifest.experts.keys()
    assert wrapped.manifest.specs == direct.manifest.specs
    names = {name.removeprefix("language_model.") for name, _ in wrapped.trunk_tensors()}
    assert names == {name for name, _ in direct.trunk_tensors()}


def test_layers_for_several_tokens_at_once_are_left_out(tmp_path: Path) -> None:
    source = tiny_checkpoint("deepseek_v3", tmp_path / "source")
    tensors = published(source)
    extra = {
        name.replace("layers.2.", "layers.3."): tensor
        for name, tensor in tensors.items()
        if "layers.2." in name
    }
    save_file(
        {**tensors, **{name: tensor.clone() for name, tensor in extra.items()}}, source / "model.safetensors"
    )
    model = prepare(str(source), tmp_path / "out")
    assert {key.layer for key in model.manifest.experts} == {1, 2}
    assert not [name for name, _ in model.trunk_tensors() if "layers.3." in name]


def test_a_name_comes_from_the_output_folder_or_the_source(tmp_path: Path) -> None:
    source = tiny_checkpoint("mixtral", tmp_path / "Tiny-Mixtral")
    assert prepare(str(source), tmp_path / "my-model").name == "my-model"
    below_home = prepare(str(source))
    assert below_home.name == "Tiny-Mixtral"
    assert below_home.folder.parent.name == "models"
    snapshot = tmp_path / "models--org--Cached-Model" / "snapshots" / "0123abcd"
    assert prepare(str(tiny_checkpoint("mixtral", snapshot))).name == "Cached-Model"


def test_the_trunk_may_compute_in_another_type_than_published(tmp_path: Path) -> None:
    source = tiny_checkpoint("mixtral", tmp_path / "source", dtype=torch.bfloat16)
    model = prepare(str(source), tmp_path / "out", dtype="float32")
    assert model.manifest.dtype == "float32"
    assert {spec.dtype for spec in model.manifest.specs} == {"bfloat16"}


def test_progress_covers_every_expert_byte(tmp_path: Path) -> None:
    told = ToldProgress()
    model = prepare(str(tiny_checkpoint("mixtral", tmp_path / "source")), tmp_path / "out", progress=told)
    total = model.manifest.total_expert_bytes
    assert told.works == [("Hashing experts", total, total)]
    assert not told.running


def test_code_of_a_publisher_is_not_taken_along(tmp_path: Path) -> None:
    source = tiny_checkpoint("deepseek_v3", tmp_path / "source")
    edited_config(source, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (source / "evil.py").write_text("raise SystemExit('code of the publisher ran')")
    model = prepare(str(source), tmp_path / "out")
    assert model.config.model_type == "deepseek_v3"
    assert not list(model.folder.glob("*.py"))
    assert "auto_map" not in json.loads((model.folder / "config.json").read_text())


def test_a_tokenizer_comes_along(tmp_path: Path) -> None:
    model = prepare(str(tiny_checkpoint("mixtral", tmp_path / "source")), tmp_path / "out")
    tokenizer = model.tokenizer()
    assert tokenizer.decode(tokenizer.encode("zwei wörter ✓")) == "zwei wörter ✓"
    assert tokenizer.chat_template


def sources_that_cannot_be_prepared(tmp_path: Path) -> Iterator[tuple[str, type[Exception], str]]:
    gone = tmp_path / "gone"
    yield str(gone), NoSuchModelError, rf"there is no model {gone}: give a checkpoint folder"
    yield "mistralai/Mixtral-8x7B", NoSuchModelError, "hf download mistralai/Mixtral-8x7B"

    source = tiny_checkpoint("mixtral", tmp_path / "single")
    yield str(source / "model.safetensors"), NoSuchModelError, f"give the folder that holds it: {source}"

    source = tiny_checkpoint("mixtral", tmp_path / "no-tokenizer", tokenizer=False)
    yield str(source), CheckpointError, "has no tokenizer"

    source = tiny_checkpoint("mixtral", tmp_path / "unknown")
    edited_config(source, model_type="bert")
    yield str(source), UnsupportedModelError, "'bert'.*supported are"

    source = tiny_checkpoint("mixtral", tmp_path / "untyped")
    edited_config(source, model_type=None)
    yield str(source), UnsupportedModelError, "supported are"

    source = tiny_checkpoint("mixtral", tmp_path / "nonsense")
    edited_config(source, num_attention_heads="many")
    yield str(source), CheckpointError, "config.json"

    source = tiny_checkpoint("mixtral", tmp_path / "more-experts")
    edited_config(source, num_local_experts=9)
    yield str(source), CheckpointError, r"lacks the tensor .*experts\.8\.w1"

    source = tiny_checkpoint("granitemoe", tmp_path / "fewer-experts")
    edited_config(source, num_local_experts=4)
    yield str(source), CheckpointError, "config.json says 4 experts"

    source = tiny_checkpoint("mixtral", tmp_path / "other-size")
    edited_config(source, intermediate_size=32)
    yield str(source), CheckpointError, r"is \[48, 64\] for an expert, but config.json says \[32, 64\]"

    source = tiny_checkpoint("qwen3_moe", tmp_path / "all-dense")
    edited_config(source, mlp_only_layers=[0, 1])
    yield str(source), CheckpointError, "no layer with experts"

    for number, family in enumerate(("mixtral", "llama")):
        source = tiny_checkpoint(family, tmp_path / f"empty-{number}")
        edited_config(source, intermediate_size=0)
        yield str(source), CheckpointError, "config.json describes no model that can be used .*64 x 0"

    source = tiny_checkpoint("mixtral", tmp_path / "no-choice")
    edited_config(source, num_experts_per_tok=None)
    yield str(source), CheckpointError, "config.json describes no model that can be used"

    source = tiny_checkpoint("qwen3", tmp_path / "no-layers")
    edited_config(source, num_hidden_layers=0, layer_types=[])
    yield str(source), CheckpointError, "no layer with experts"

    source = tiny_checkpoint("mixtral", tmp_path / "mixed")
    tensors = published(source)
    name = next(name for name in tensors if "experts.3.w2" in name)
    save_file({**tensors, name: tensors[name].half()}, source / "model.safetensors")
    yield str(source), CheckpointError, "expert 3 are of types float16, float32"

    source = tiny_checkpoint("mixtral", tmp_path / "cut")
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-1])
    yield str(source), TruncatedFileError, "1 of .* bytes are missing"

    source = tiny_checkpoint("qwen3", tmp_path / "dense")
    edited_config(source, intermediate_size=128)
    yield str(source), CheckpointError, r"\[96, 64\], but the configuration says \[128, 64\]"

    prepared = prepare(str(tiny_checkpoint("mixtral", tmp_path / "fine")), tmp_path / "prepared")
    yield str(prepared.folder), NoSuchModelError, "is a prepared model already"


def test_each_bad_source_gets_its_own_line_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for source, kind, line in sources_that_cannot_be_prepared(tmp_path):
        with pytest.raises(kind, match=line) as caught:
            prepare(source, out)
        assert "\n" not in str(caught.value)
        assert caught.value.advice, source  # type: ignore[attr-defined]
        assert not out.exists()
        assert not list(tmp_path.glob("*.partial"))


def test_slices_are_for_dense_models(tmp_path: Path) -> None:
    with pytest.raises(SlicesError, match="leave --slices out"):
        prepare(str(tiny_checkpoint("mixtral", tmp_path / "source")), tmp_path / "out", slices=4)


def test_a_weight_type_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int3'.*choose one of float32, bfloat16, float16"):
        prepare(str(tiny_checkpoint("mixtral", tmp_path / "source")), tmp_path / "out", dtype="int3")


def test_preparing_again_reads_no_weight(tmp_path: Path) -> None:
    source, out = tiny_checkpoint("mixtral", tmp_path / "source"), tmp_path / "out"
    prepare(str(source), out)
    before = (out / MANIFEST).stat()
    told = ToldProgress()
    prepare(str(source), out, progress=told)
    assert told.works == []
    assert (out / MANIFEST).stat() == before


def test_preparing_a_changed_source_makes_it_anew(tmp_path: Path) -> None:
    source, out = tiny_checkpoint("mixtral", tmp_path / "source"), tmp_path / "out"
    old = prepare(str(source), out).manifest.digest
    tiny_checkpoint("mixtral", source, seed=1)
    model = prepare(str(source), out)
    assert model.manifest.digest != old
    key = ExpertKey(0, 0)
    assert hashlib.sha256(model.read_expert(key)).hexdigest() == model.manifest.experts[key].sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_preparing_again_mends_what_is_damaged(tmp_path: Path) -> None:
    source, out = tiny_checkpoint("llama", tmp_path / "source"), tmp_path / "out"
    whole = prepare(str(source), out).manifest
    (out / "experts-00001.safetensors").write_bytes(b"short")
    assert prepare(str(source), out).manifest == whole
    assert PreparedModel.open(out).read_expert(ExpertKey(1, 0))
    (out / SOURCE).write_text("{}")
    with pytest.raises(UsageError, match="holds a damaged prepared model: delete it"):
        prepare(str(source), out)


def test_a_checkpoint_that_does_not_say_its_type_computes_in_that_of_its_experts(tmp_path: Path) -> None:
    source = tiny_checkpoint("mixtral", tmp_path / "source", dtype=torch.float16)
    edited_config(source, dtype=None)
    assert prepare(str(source), tmp_path / "out").manifest.dtype == "float16"


def test_another_model_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare(str(tiny_checkpoint("mixtral", tmp_path / "first")), out)
    with pytest.raises(UsageError, match=r"holds a model that was prepared from .*first.*--out"):
        prepare(str(tiny_checkpoint("olmoe", tmp_path / "second")), out)
    assert PreparedModel.open(out).manifest == first.manifest


def test_the_manifest_is_signed_again_when_the_operator_is_another(tmp_path: Path) -> None:
    source, out = tiny_checkpoint("mixtral", tmp_path / "source"), tmp_path / "out"
    unsigned = prepare(str(source), out)
    assert unsigned.signature is None
    for key in (b"a" * 32, b"b" * 32):
        model = prepare(str(source), out, sign=lambda digest, key=key: (key, digest * 2))  # type: ignore[misc]
        assert model.signature == (key, model.manifest.digest * 2)
        assert PreparedModel.open(out).signature == model.signature
