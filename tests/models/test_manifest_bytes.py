"""A manifest's bytes, and so its digest, are the same for ever for the same model; every weight format comes back from them."""

from __future__ import annotations

import json

import pytest

from folkmoot.ids import ExpertKey
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.models.manifest import ByteRange, ExpertEntry, Manifest, ManifestError, SourceFile

WRITTEN_ONCE = (
    b'{"dtype":"bfloat16","experts":[[0,0,0,[[0,64,64],[0,128,64],[0,192,64]],"' + b"ab" * 32 + b'"]],'
    b'"family":"mixtral","files":[["model.safetensors",256]],"format":"folkmoot-manifest/1","name":"tiny",'
    b'"profile":"float32-accumulate/1","sliced":false,"specs":[{"activation":"swiglu","alpha":1.702,"dtype":"bfloat16",'
    b'"hidden":4,"intermediate":8,"layout":"separate","limit":7.0}],"top_k":2}'
)


def manifest(spec: ExpertSpec) -> Manifest:
    ranges, offset = [], 0
    for tensor in spec.tensors():
        ranges.append(ByteRange(0, offset, spec.tensor_bytes(tensor)))
        offset += spec.tensor_bytes(tensor)
    key = ExpertKey(0, 0)
    entry = ExpertEntry(key, 0, tuple(ranges), "cd" * 32)
    return Manifest("m", "olmoe", 1, "bfloat16", False, (SourceFile("f", offset),), (spec,), {key: entry})


def test_the_bytes_of_a_16_bit_model_never_change() -> None:
    key = ExpertKey(0, 0)
    entry = ExpertEntry(key, 0, tuple(ByteRange(0, offset, 64) for offset in (64, 128, 192)), "ab" * 32)
    spec = ExpertSpec(4, 8, "bfloat16", Layout.SEPARATE)
    files = (SourceFile("model.safetensors", 256),)
    made = Manifest("tiny", "mixtral", 2, "bfloat16", False, files, (spec,), {key: entry})
    assert made.encoded == WRITTEN_ONCE
    assert Manifest.decode(WRITTEN_ONCE).encoded == WRITTEN_ONCE


@pytest.mark.parametrize("form", list(WeightFormat))
def test_every_format_comes_back(form: WeightFormat) -> None:
    spec = ExpertSpec(64, 32, form, Layout.UNGATED, Activation.RELU_SQUARED)
    made = manifest(spec)
    again = Manifest.decode(made.encoded)
    assert again == made and again.digest == made.digest
    assert again.specs[0].format is form
    assert again.total_expert_bytes == spec.expert_bytes


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int3"},
        {"hidden": 40},
        {"layout": "fused_transposed", "activation": "swiglu"},
        {"layout": "x"},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    document = json.loads(manifest(ExpertSpec(64, 32, "int4", Layout.SEPARATE)).encoded)
    document["specs"][0] |= change
    with pytest.raises(ManifestError):
        Manifest.decode(json.dumps(document).encode())


def test_ranges_that_do_not_fit_the_format_are_refused() -> None:
    document = json.loads(manifest(ExpertSpec(64, 32, "int4", Layout.SEPARATE)).encoded)
    document["experts"][0][3][1][2] += 2
    with pytest.raises(ManifestError, match="ranges do not fit"):
        Manifest.decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b"9" * 5000, b'{"format":"folkmoot-manifest/1"}'],
    ids=["nothing", "list", "null", "deep", "no text", "a long number", "a format alone"],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(data)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("top_k",), float("inf")),
        (("top_k",), 0),
        (("specs",), []),
        (("experts",), []),
        (("experts", 0, 0), -1),
        (("experts", 0, 1), 1 << 31),
        (("experts", 0, 3), [[0, float("inf"), 1]]),
        (("files", 0, 1), float("nan")),
        (("specs", 1, "hidden"), 128),
    ],
)
def test_numbers_that_no_model_has_are_refused(place: tuple[str | int, ...], value: object) -> None:
    document = json.loads(manifest(ExpertSpec(64, 32, "bfloat16", Layout.SEPARATE)).encoded)
    document["specs"] *= 2
    inner = document
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(ManifestError):
        Manifest.decode(json.dumps(document).encode())


def test_an_expert_is_listed_once() -> None:
    document = json.loads(manifest(ExpertSpec(64, 32, "bfloat16", Layout.SEPARATE)).encoded)
    document["experts"] *= 2
    with pytest.raises(ManifestError, match="twice"):
        Manifest.decode(json.dumps(document).encode())
