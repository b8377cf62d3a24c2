"""Experts of a safetensors checkpoint, stored in another weight format.

Guarantees: each expert is read, converted and written once, in order; memory holds one expert as it is published and as it is
written, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from ...kernels.convert import converted
from ...kernels.expert import Expert
from ...kernels.formats import WeightFormat
from ..checkpoint import Checkpoint
from ..families import FamilyAdapter
from ..manifest import ExpertEntry, SourceFile
from ..progress import Progress
from ..safetensors_header import CheckpointError, TensorLocation
from .chosen_format import spec_in
from .expert_file import write_layer
from .expert_list import ExpertList
from .output_folder import check_space
from .published import PublishedExpert, published_experts


def write_converted(
    checkpoint: Checkpoint,
    config: Any,
    adapter: FamilyAdapter,
    form: WeightFormat,
    folder: Path,
    progress: Progress,
) -> ExpertList:
    """Writes every expert of a checkpoint into `folder`.

    Raises:
        CheckpointError: a tensor is missing, or has another shape or type than its family says.
        FormatError: the experts' sizes do not fit the format.
        QuantizationError: a weight is infinite, not a number or too large.
        NoSpaceError: the disk is too small.
    """
    experts = list(published_experts(checkpoint, config, adapter))
    specs = list(dict.fromkeys(spec_in(expert.spec, form) for expert in experts))
    total = sum(spec_in(expert.spec, form).expert_bytes for expert in experts)
    check_space(folder, total)
    progress.start(f"Converting experts to {form}", total)
    files: list[SourceFile] = []
    entries: list[ExpertEntry] = []
    try:
        for layer, group in groupby(experts, key=lambda expert: expert.key.layer):
            members = list(group)
            spec = spec_in(members[0].spec, form)
            tensors = _converted(checkpoint, members, form, progress)
            file, found = write_layer(folder, layer, spec, tensors, count=len(members), file=len(files))
            files.append(file)
            entries.extend(replace(entry, spec=specs.index(spec)) for entry in found)
    finally:
        progress.finish()
    return ExpertList(
        folder, tuple(files), tuple(specs), tuple(entries), top_k=adapter.top_k(config), sliced=False
    )


def _converted(
    checkpoint: Checkpoint, experts: Iterable[PublishedExpert], form: WeightFormat, progress: Progress
) -> Iterator[Iterator[torch.Tensor]]:
    for expert in experts:
        weights = Expert(expert.spec, [_read(checkpoint, part) for part in expert.parts]).weights
        yield converted(expert.spec, weights, form)
        progress.advance(spec_in(expert.spec, form).expert_bytes)


def _read(checkpoint: Checkpoint, part: TensorLocation) -> bytearray:
    data = bytearray(part.length)
    path = checkpoint.folder / part.file
    with path.open("rb") as stream:
        stream.seek(part.offset)
        if stream.readinto(data) != part.length:
            raise CheckpointError(
                f"{path} became shorter while it was read",
                advice="prepare again when nothing else writes to it",
            )
    return data
