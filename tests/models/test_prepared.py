"""A prepared model reads experts piece by piece and in parallel, and says which file is gone, changed or foreign."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from folkmoot.ids import ExpertKey
from folkmoot.models.manifest import ManifestError
from folkmoot.models.prepare import prepare
from folkmoot.models.prepared import (
    MANIFEST,
    SIGNATURE,
    NotPreparedError,
    PreparedModel,
    PreparedModelError,
)
from folkmoot.models.source_table import SOURCE, SourceTableError
from folkmoot.tests.support.tiny_models import tiny_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> PreparedModel:
    source = tiny_checkpoint("mixtral", tmp_path / "source", max_shard_size="100KB")
    return prepare(str(source), tmp_path / "out", sign=lambda digest: (b"k" * 32, digest + digest))


def test_pieces_of_an_expert_are_pieces_of_its_bytes(model: PreparedModel) -> None:
    key = ExpertKey(1, 5)
    whole = model.read_expert(key)
    size = model.manifest.expert_bytes(key)
    boundary = model.ranges(key)[0][2]
    assert len(whole) == size
    for offset, length in [(0, 1), (boundary - 3, 7), (boundary, 10), (size - 5, 100), (size, 10), (0, 0)]:
        assert model.read_expert(key, offset, length) == whole[offset : offset + length]
    assert model.read_expert(key, 100) == whole[100:]
    assert b"".join(model.read_expert(key, start, 1000) for start in range(0, size, 1000)) == whole


def test_an_expert_that_is_not_there(model: PreparedModel) -> None:
    with pytest.raises(KeyError):
        model.read_expert(ExpertKey(0, 8))


def test_many_threads_read_at_once(model: PreparedModel) -> None:
    keys = list(model.manifest.experts) * 4
    expected = {key: model.read_expert(key) for key in model.manifest.experts}
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(PreparedModel.open(model.folder).read_expert, keys)) == [
            expected[key] for key in keys
        ]


def test_files_are_closed_with_the_model(model: PreparedModel) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    gc.collect()
    before = opened()
    other = PreparedModel.open(model.folder)
    for key in other.manifest.experts:
        other.read_expert(key)
    assert opened() > before
    del other
    gc.collect()
    assert opened() == before


def test_tensors_have_memory_of_their_own(model: PreparedModel) -> None:
    for _, tensor in model.trunk_tensors():
        tensor.zero_()
    assert any(tensor.any() for _, tensor in model.trunk_tensors())


def test_types_and_shapes_of_the_trunk(tmp_path: Path) -> None:
    source = tiny_checkpoint("mixtral", tmp_path / "source", dtype=torch.float16)
    trunk = dict(prepare(str(source), tmp_path / "out").trunk_tensors())
    assert trunk["model.embed_tokens.weight"].shape == (272, 64)
    assert {tensor.dtype for tensor in trunk.values()} == {torch.float16}


def test_the_signature_is_kept(model: PreparedModel) -> None:
    digest = model.manifest.digest
    assert PreparedModel.open(model.folder).signature == (b"k" * 32, digest + digest)
    (model.folder / SIGNATURE).unlink()
    assert PreparedModel.open(model.folder).signature is None


def test_a_folder_that_is_not_there_or_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(NotPreparedError, match="there is no prepared model .*gone: make it with"):
        PreparedModel.open(tmp_path / "gone")
    source = tiny_checkpoint("mixtral", tmp_path / "source")
    with pytest.raises(NotPreparedError, match=f"folkmoot model prepare {source} --out DIR"):
        PreparedModel.open(source)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Path.unlink, "cannot be read .*No such file.*: put it back"),
        (cut, r"has \d+ bytes; it had \d+ when .*out was prepared: put it back as it was"),
    ],
)
def test_source_files_that_are_gone_or_changed_are_named(
    change: Callable[[Path], object], line: str, model: PreparedModel, tmp_path: Path
) -> None:
    for victim in sorted((tmp_path / "source").glob("*.safetensors")):
        kept = victim.read_bytes()
        change(victim)
        with pytest.raises(PreparedModelError, match=rf"{victim.name}.*{line}"):
            PreparedModel.open(model.folder)
        victim.write_bytes(kept)
    assert PreparedModel.open(model.folder).manifest == model.manifest


def test_a_file_that_shrinks_while_in_use_is_named(model: PreparedModel) -> None:
    key = ExpertKey(0, 0)
    path, offset, _ = model.ranges(key)[0]
    model.read_expert(key)
    os.truncate(path, offset)
    with pytest.raises(PreparedModelError, match=rf"{path.name} has become shorter"):
        model.read_expert(key)
    for shard in path.parent.glob("*.safetensors"):
        os.truncate(shard, 8)
    with pytest.raises(PreparedModelError, match=r"safetensors has become shorter"):
        list(model.trunk_tensors())


@pytest.mark.parametrize("content", [None, b"", b"[", b"{}", b"\xff", b'{"model_type": "unheard of"}'])
def test_damaged_files_of_transformers_are_named(content: bytes | None, model: PreparedModel) -> None:
    asked: dict[str, Callable[[PreparedModel], object]] = {
        "config.json": lambda opened: opened.config,
        "tokenizer": PreparedModel.tokenizer,
    }
    for name, ask in asked.items():
        for path in model.folder.glob(f"{name}*"):
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(
            PreparedModelError, match=f"{name}.* cannot be read .*: prepare the model again"
        ) as caught:
            ask(PreparedModel.open(model.folder))
        assert "\n" not in str(caught.value)


def test_a_manifest_that_may_not_be_read_is_named(model: PreparedModel) -> None:
    (model.folder / MANIFEST).unlink()
    (model.folder / MANIFEST).symlink_to("/proc/self/mem")  # a file that opens, and cannot be read
    with pytest.raises(PreparedModelError, match=r"manifest\.json cannot be read"):
        PreparedModel.open(model.folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_manifest_and_its_companions_must_belong_together(model: PreparedModel, tmp_path: Path) -> None:
    manifest = (model.folder / MANIFEST).read_text()
    edit(model.folder / MANIFEST, '"top_k":2', '"top_k":1')
    with pytest.raises(
        PreparedModelError, match="not the manifest that was prepared here: prepare the model again"
    ):
        PreparedModel.open(model.folder)
    (model.folder / MANIFEST).write_text("{}")
    with pytest.raises(ManifestError, match="cannot be read"):
        PreparedModel.open(model.folder)
    (model.folder / MANIFEST).write_text(manifest)
    edit(model.folder / SIGNATURE, model.manifest.digest.hex(), "00" * 32)
    with pytest.raises(PreparedModelError, match=r"manifest\.sig signs another manifest"):
        PreparedModel.open(model.folder)
    (model.folder / SIGNATURE).write_text('{"key": "zz"}')
    with pytest.raises(PreparedModelError, match=r"manifest\.sig cannot be read"):
        PreparedModel.open(model.folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "folkmoot-source/9"),
        ("trunk", {"a": ["model.safetensors", 0, "F32", [4]]}),
        ("trunk", {"a": [None, -8, "F32", [4]]}),
        ("trunk", {"a": [None, 0, "U8", [4]]}),
        ("trunk", {"a": [None, 0, "F32", [10**12]]}),
        ("trunk", {"a": [None, 0]}),
        ("trunk", []),
        ("manifest", None),
    ],
)
def test_a_damaged_source_table_is_named(field: str, value: object, model: PreparedModel) -> None:
    path = model.folder / SOURCE
    document = json.loads(path.read_text())
    first = next(iter(document["trunk_files"]))
    if isinstance(value, dict):
        value = {name: [first if row[0] is None else row[0], *row[1:]] for name, row in value.items()}
    document[field] = value
    path.write_text(json.dumps(document))
    with pytest.raises((SourceTableError, PreparedModelError), match="prepare the model again"):
        PreparedModel.open(model.folder)


def test_a_source_table_that_is_no_json(model: PreparedModel) -> None:
    (model.folder / SOURCE).write_text("[")
    with pytest.raises(SourceTableError, match=r"source\.json cannot be read"):
        PreparedModel.open(model.folder)
