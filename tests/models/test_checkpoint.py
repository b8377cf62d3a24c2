"""A checkpoint is opened by its headers alone, and one that is damaged, incomplete or quantized is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from folkmoot.models import safetensors_header
from folkmoot.models.checkpoint import (
    INDEX,
    SINGLE,
    Checkpoint,
    MissingShardError,
    NoSuchModelError,
    QuantizedSourceError,
)
from folkmoot.models.safetensors_header import (
    CheckpointError,
    DamagedFileError,
    TruncatedFileError,
    read_header,
)
from folkmoot.tests.support.tiny_models import tiny_checkpoint


def sharded(folder: Path) -> Path:
    return tiny_checkpoint("mixtral", folder, max_shard_size="100KB")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def write_header(path: Path, header: object, body: int = 0) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(body))


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"])
def test_locations_are_where_the_tensors_are(max_shard_size: str, tmp_path: Path) -> None:
    tiny_checkpoint("mixtral", tmp_path, max_shard_size=max_shard_size, dtype=torch.bfloat16)
    checkpoint = Checkpoint.open(tmp_path)
    files = {location.file for location in checkpoint.tensors.values()}
    assert (len(files) > 1) == (max_shard_size == "100KB")
    expected: dict[str, torch.Tensor] = {}
    for file in files:
        expected |= load_file(tmp_path / file)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, location in checkpoint.tensors.items():
        data = (tmp_path / location.file).read_bytes()[location.offset :][: location.length]
        assert (
            torch.frombuffer(bytearray(data), dtype=torch.bfloat16).view(location.shape).equal(expected[name])
        )


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModelError, match=r"there is no model folder .*/nowhere"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_folder_without_config_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoSuchModelError, match="give the folder that holds config.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(NoSuchModelError, match=r"name the file itself: .*model\.gguf"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_config_that_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFileError, match="config.json is not"):
        Checkpoint.open(tmp_path)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NoSuchModelError, match="no \\*.safetensors files"):
        Checkpoint.open(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="pickle"):
        Checkpoint.open(tmp_path)


def test_one_file_of_any_name_is_enough(tmp_path: Path) -> None:
    tiny_checkpoint("mixtral", tmp_path)
    (tmp_path / SINGLE).rename(tmp_path / "weights.safetensors")
    assert {place.file for place in Checkpoint.open(tmp_path).tensors.values()} == {"weights.safetensors"}


def test_several_files_need_their_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(DamagedFileError, match=f"no {INDEX}"):
        Checkpoint.open(tmp_path)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    sharded(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shards[1].unlink()
    with pytest.raises(MissingShardError, match=rf"lacks {shards[1].name}: download what is missing"):
        Checkpoint.open(tmp_path)
    shards[2].unlink()
    with pytest.raises(MissingShardError, match="and 1 more"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd"])
def test_an_index_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    sharded(tmp_path)
    edit(tmp_path / INDEX, lambda index: index["weight_map"].update({"model.norm.weight": name}))
    with pytest.raises(DamagedFileError, match="outside its folder"):
        Checkpoint.open(tmp_path)


def test_an_index_that_names_the_wrong_shard(tmp_path: Path) -> None:
    sharded(tmp_path)
    edit(
        tmp_path / INDEX,
        lambda index: index["weight_map"].update({"model.extra": min(index["weight_map"].values())}),
    )
    with pytest.raises(DamagedFileError, match="model.extra is in .* but it is not"):
        Checkpoint.open(tmp_path)


def test_an_index_without_a_map(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(DamagedFileError, match="has no weight_map"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("missing", [1, 1000])
def test_a_truncated_shard_is_named_with_what_is_missing(missing: int, tmp_path: Path) -> None:
    sharded(tmp_path)
    victim = sorted(tmp_path.glob("model-*.safetensors"))[1]
    data = victim.read_bytes()
    victim.write_bytes(data[:-missing])
    wanted = rf"{victim.name} is truncated: {missing} of {len(data)} bytes are missing: delete it and download it again"
    with pytest.raises(TruncatedFileError, match=wanted):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 8, 100])
def test_a_file_that_ends_in_its_header_is_named(kept: int, tmp_path: Path) -> None:
    tiny_checkpoint("mixtral", tmp_path)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:kept])
    with pytest.raises(TruncatedFileError, match=rf"{SINGLE} is truncated"):
        Checkpoint.open(tmp_path)


def test_a_file_that_is_too_long_is_named(tmp_path: Path) -> None:
    tiny_checkpoint("mixtral", tmp_path)
    with (tmp_path / SINGLE).open("ab") as stream:
        stream.write(b"tail!")
    with pytest.raises(DamagedFileError, match="5 bytes longer than its header says"):
        Checkpoint.open(tmp_path)


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(DamagedFileError, match="git lfs pull"):
        read_header(tmp_path, SINGLE)


def entry(begin: object, end: object, shape: object = (4,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [4]}},
        {"a": entry(0, 16, dtype="F31")},
        {"a": entry(0, 16, dtype=["F32"])},
        {"a": entry(0, 12)},
        {"a": entry(0, 16, shape=[-4])},
        {"a": entry(0, 16, shape=[4.0])},
        {"a": entry(0, 16, shape=[True, 4])},
        {"a": entry(16, 0)},
        {"a": entry(-16, 0)},
        {"a": entry("0", "16")},
        {"a": entry(0, 16), "b": entry(8, 24)},
        {"a": entry(0, 16), "b": entry(20, 36)},
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
        b"[" * 100_000,
    ],
)
def test_headers_that_contradict_themselves(header: object, tmp_path: Path) -> None:
    write_header(tmp_path / SINGLE, header, body=64)
    with pytest.raises(DamagedFileError, match=SINGLE):
        read_header(tmp_path, SINGLE)


def test_an_absurd_header_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_HEADER_BYTES", 1000)
    write_header(tmp_path / SINGLE, {"__metadata__": {"note": "x" * 2000}})
    with pytest.raises(DamagedFileError, match="is not a safetensors file"):
        read_header(tmp_path, SINGLE)


def test_a_file_without_tensors_is_a_file_without_tensors(tmp_path: Path) -> None:
    write_header(tmp_path / SINGLE, {"__metadata__": {"format": "pt"}})
    assert read_header(tmp_path, SINGLE) == {}


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"bits": 4}, "unknown"),
    ],
)
@pytest.mark.parametrize("inner", [False, True])
def test_quantized_formats_are_named(
    settings: dict[str, Any], method: str, inner: bool, tmp_path: Path
) -> None:
    tiny_checkpoint("mixtral", tmp_path)
    said = {"quantization_config": settings}
    edit(tmp_path / "config.json", lambda config: config.update({"text_config": said} if inner else said))
    with pytest.raises(
        QuantizedSourceError, match=rf"in {method} .*cannot be read.*mxfp4 are read.*bfloat16"
    ):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "code"),
    [(torch.float8_e4m3fn, "F8_E4M3"), (torch.uint8, "U8"), (torch.int8, "I8"), (torch.float64, "F64")],
)
def test_quantized_tensors_are_named_whatever_the_config_says(
    dtype: torch.dtype, code: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(4), "blocks": torch.zeros(4).to(dtype)}, tmp_path / SINGLE)
    with pytest.raises(QuantizedSourceError, match=rf"{code} \(blocks in {SINGLE}\)"):
        Checkpoint.open(tmp_path)


def test_counters_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(4), "position_ids": torch.arange(4)}, tmp_path / SINGLE)
    assert Checkpoint.open(tmp_path).tensors["position_ids"].dtype == "I64"


@pytest.mark.parametrize(
    ("body", "head"),
    [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")],
)
def test_a_wrapped_language_model_is_opened_as_itself(body: str, head: str, tmp_path: Path) -> None:
    weights = {
        f"{body}norm.weight": torch.ones(4),
        f"{head}weight": torch.zeros(4),
        "vision_model.a": torch.ones(2),
    }
    save_file(weights, tmp_path / SINGLE)
    inner = {"model_type": "llama4_text", "eos_token_id": 7}
    config = {"model_type": "llama4", "text_config": inner, "torch_dtype": "bfloat16", "eos_token_id": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tensors.keys() == {"model.norm.weight", "lm_head.weight"}
    assert checkpoint.config == {**inner, "torch_dtype": "bfloat16"}


def test_a_wrapper_that_is_not_known_is_refused(tmp_path: Path) -> None:
    save_file({"thinker.norm": torch.ones(4)}, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "omni", "text_config": {}}))
    with pytest.raises(CheckpointError, match=r"not known \(model_type 'omni'\)"):
        Checkpoint.open(tmp_path)
