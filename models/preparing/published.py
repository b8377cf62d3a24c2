"""Experts that lie in safetensors as published: found and hashed, never copied.

Guarantees: every expert that the configuration announces is found with the shapes and types that its family and its weight
format say, or the checkpoint is refused with the tensor's name; all matrices of one expert have one format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...ids import ExpertKey
from ...kernels.formats import ExpertSpec, TensorSpec, WeightFormat
from ..checkpoint import Checkpoint
from ..families import DiskTensor, FamilyAdapter
from ..manifest import ByteRange, ExpertEntry, SourceFile
from ..progress import Progress
from ..published_forms import published_format, stored_names
from ..safetensors_header import CheckpointError, TensorLocation
from ..stored_types import CODES
from .checked_config import checked_config
from .expert_list import ExpertList
from .hashing import sha256_of_ranges

BIAS = "_bias"


@dataclass(frozen=True)
class PublishedExpert:
    """One expert where it lies: its tensors in canonical order."""

    key: ExpertKey
    spec: ExpertSpec
    parts: tuple[TensorLocation, ...]


def list_published(
    checkpoint: Checkpoint, config: Any, adapter: FamilyAdapter, progress: Progress
) -> ExpertList:
    """Finds and hashes every expert of a checkpoint.

    Raises:
        CheckpointError: a tensor is missing, or has another shape or type than its family says.
    """
    experts = list(published_experts(checkpoint, config, adapter))
    names = sorted({part.file for expert in experts for part in expert.parts})
    file_index = {name: index for index, name in enumerate(names)}
    specs = list(dict.fromkeys(expert.spec for expert in experts))
    ranges = [
        tuple(ByteRange(file_index[part.file], part.offset, part.length) for part in expert.parts)
        for expert in experts
    ]
    digests = sha256_of_ranges([checkpoint.folder / name for name in names], ranges, progress)
    return ExpertList(
        folder=checkpoint.folder,
        files=tuple(SourceFile(name, checkpoint.file_size(name)) for name in names),
        specs=tuple(specs),
        entries=tuple(
            ExpertEntry(expert.key, specs.index(expert.spec), parts, digest)
            for expert, parts, digest in zip(experts, ranges, digests, strict=True)
        ),
        top_k=adapter.top_k(config),
        sliced=False,
    )


def published_experts(
    checkpoint: Checkpoint, config: Any, adapter: FamilyAdapter
) -> Iterator[PublishedExpert]:
    """Finds every expert, in ascending order, without reading a weight.

    Raises:
        CheckpointError: a tensor is missing, or has another shape or type than its family says.
    """
    for layer in adapter.moe_layers(config):
        count = adapter.expert_count(config, layer)
        for expert in range(count):
            disk = adapter.on_disk(config, layer, expert)
            form = _common_format(checkpoint, disk, f"layer {layer} expert {expert}")
            spec = checked_config(
                f"{checkpoint.folder / 'config.json'}", partial(adapter.spec, config, form, layer)
            )
            stored = [
                DiskTensor(name, tensor.index)
                for tensor in disk
                for name in ([tensor.name] if tensor.name.endswith(BIAS) else stored_names(form, tensor.name))
            ]
            parts = tuple(_part(checkpoint, tensor, count) for tensor in stored)
            for tensor, part, wanted in zip(stored, parts, spec.tensors(), strict=True):
                _check(tensor.name, f"{checkpoint.folder / part.file}", part, wanted)
            yield PublishedExpert(ExpertKey(layer, expert), spec, parts)


def _check(name: str, file: str, part: TensorLocation, wanted: TensorSpec) -> None:
    if part.shape != wanted.shape:
        raise CheckpointError(
            f"{name} in {file} is {list(part.shape)} for an expert, but config.json says {list(wanted.shape)}",
            advice="download config.json and the weights from the same revision",
        )
    if part.dtype != CODES[wanted.dtype]:
        raise CheckpointError(
            f"{name} in {file} is of type {part.dtype}, but its format has {CODES[wanted.dtype]} there",
            advice="use the model's bfloat16, float16 or float32 version",
        )


def _common_format(checkpoint: Checkpoint, disk: tuple[DiskTensor, ...], whose: str) -> WeightFormat:
    forms: dict[WeightFormat, str] = {}
    for tensor in disk:
        if tensor.name.endswith(BIAS):
            continue
        form = published_format(checkpoint.tensors, tensor.name)
        if form is None:
            raise _lacking(checkpoint, tensor.name)
        forms.setdefault(form, tensor.name)
    if len(forms) > 1:
        raise CheckpointError(
            f"the tensors of {whose} are of types {', '.join(sorted(forms))}",
            advice="convert the model so that all experts have one type",
        )
    return next(iter(forms))


def _lacking(checkpoint: Checkpoint, name: str) -> CheckpointError:
    found = checkpoint.tensors.get(name)
    if found is not None:
        return CheckpointError(
            f"{name} in {checkpoint.folder / found.file} is of type {found.dtype}, which is no type of weights",
            advice="convert the model so that all experts have one type",
        )
    return CheckpointError(
        f"{checkpoint.folder} lacks the tensor {name}", advice="download the model's weights again"
    )


def _part(checkpoint: Checkpoint, tensor: DiskTensor, experts: int) -> TensorLocation:
    location = checkpoint.tensors.get(tensor.name)
    if location is None:
        raise _lacking(checkpoint, tensor.name)
    if tensor.index is None:
        return location
    if not location.shape or location.shape[0] != experts:
        raise CheckpointError(
            f"{tensor.name} in {checkpoint.folder / location.file} is {list(location.shape)}, "
            f"but config.json says {experts} experts",
            advice="download config.json and the weights from the same revision",
        )
    length = location.length // experts
    return TensorLocation(
        location.file, location.offset + tensor.index * length, length, location.dtype, location.shape[1:]
    )
