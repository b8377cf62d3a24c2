"""Experts that lie in safetensors as published: found and hashed, never copied.

Guarantees: every expert that the configuration announces is found with the shape that its family says, or the checkpoint
is refused with the tensor's name; all tensors of one expert have one type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...ids import ExpertKey
from ...kernels.formats import ExpertSpec
from ..checkpoint import Checkpoint
from ..families import DiskTensor, FamilyAdapter
from ..manifest import ByteRange, ExpertEntry, SourceFile
from ..progress import Progress
from ..safetensors_header import WEIGHT_TYPES, CheckpointError, TensorLocation
from .checked_config import checked_config
from .expert_list import ExpertList
from .hashing import sha256_of_ranges


@dataclass(frozen=True)
class _Place:
    """One expert before it is hashed."""

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
    places = list(_places(checkpoint, config, adapter))
    names = sorted({part.file for place in places for part in place.parts})
    file_index = {name: index for index, name in enumerate(names)}
    specs = list(dict.fromkeys(place.spec for place in places))
    ranges = [
        tuple(ByteRange(file_index[part.file], part.offset, part.length) for part in place.parts)
        for place in places
    ]
    digests = sha256_of_ranges([checkpoint.folder / name for name in names], ranges, progress)
    return ExpertList(
        folder=checkpoint.folder,
        files=tuple(SourceFile(name, checkpoint.file_size(name)) for name in names),
        specs=tuple(specs),
        entries=tuple(
            ExpertEntry(place.key, specs.index(place.spec), parts, digest)
            for place, parts, digest in zip(places, ranges, digests, strict=True)
        ),
        top_k=checked_config(f"{checkpoint.folder / 'config.json'}", partial(adapter.top_k, config)),
        sliced=False,
    )


def _places(checkpoint: Checkpoint, config: Any, adapter: FamilyAdapter) -> Iterator[_Place]:
    source = f"{checkpoint.folder / 'config.json'}"
    for layer in adapter.moe_layers(config):
        for expert in range(adapter.expert_count(config, layer)):
            disk = adapter.on_disk(config, layer, expert)
            parts = tuple(_part(checkpoint, tensor, adapter.expert_count(config, layer)) for tensor in disk)
            dtypes = {part.dtype for part in parts}
            if len(dtypes) > 1 or not dtypes <= WEIGHT_TYPES.keys():
                raise CheckpointError(
                    f"the tensors of layer {layer} expert {expert} are of types {', '.join(sorted(dtypes))}",
                    advice="convert the model so that all experts have one float type",
                )
            dtype = WEIGHT_TYPES[dtypes.pop()]
            spec = checked_config(source, partial(adapter.spec, config, dtype, layer))
            for tensor, part, wanted in zip(disk, parts, spec.tensors(), strict=True):
                if part.shape != wanted.shape:
                    raise CheckpointError(
                        f"{tensor.name} in {checkpoint.folder / part.file} is {list(part.shape)} for an expert, "
                        f"but config.json says {list(wanted.shape)}",
                        advice="download config.json and the weights from the same revision",
                    )
            yield _Place(ExpertKey(layer, expert), spec, parts)


def _part(checkpoint: Checkpoint, tensor: DiskTensor, experts: int) -> TensorLocation:
    location = checkpoint.tensors.get(tensor.name)
    if location is None:
        raise CheckpointError(
            f"{checkpoint.folder} lacks the tensor {tensor.name}", advice="download the model's weights again"
        )
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
