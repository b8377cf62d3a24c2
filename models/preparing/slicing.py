"""Cuts the feed-forward of a dense model into experts that are all active.

Guarantees: the cut is exact. With gate_e, up_e the rows and down_e the columns of slice e, down(act(gate x) * up x) is the
sum over e of down_e(act(gate_e x) * up_e x), so slices with gates of 1 give what the whole gives; each weight is in
exactly one slice. Memory holds one layer's down projection and one slice at a time.

Letters: H hidden size, I intermediate size of the dense model, E slices, W = I / E.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import UsageError
from ...kernels.formats import ExpertSpec, WeightFormat
from ...kernels.quantize import quantize
from ..families import FamilyAdapter
from ..progress import Progress
from ..safetensors_header import CheckpointError
from .chosen_format import read_dtype, spec_in
from .expert_file import write_layer
from .expert_list import ExpertList
from .weights import Weights

MOST_BY_DEFAULT = 8
WIDTH_MULTIPLE = 32
MOST = 1024


class SlicesError(UsageError):
    """The number of slices asked for does not fit the model."""


def choose_slices(intermediate: int, asked: int | None) -> int:
    """How many slices to cut: what was asked for, or up to eight whose width suits vector instructions.

    Raises:
        SlicesError: the number asked for does not divide the intermediate size.
    """
    if asked is not None:
        if not 1 <= asked <= MOST or intermediate % asked:
            fitting = [str(number) for number in range(1, 65) if intermediate % number == 0]
            raise SlicesError(
                f"a feed-forward of {intermediate} cannot be cut into {asked} equal slices",
                advice=f"choose one of {', '.join(fitting)} with --slices",
            )
        return asked
    for multiple in (WIDTH_MULTIPLE, 1):
        for number in range(MOST_BY_DEFAULT, 1, -1):
            if intermediate % (number * multiple) == 0:
                return number
    return 1


def refuse_slices(asked: int | None) -> None:
    """Refuses a number of slices for a model that has experts of its own."""
    if asked is not None:
        raise SlicesError("this model has experts of its own and is not cut", advice="leave --slices out")


def slice_dense(
    weights: Weights,
    config: Any,
    adapter: FamilyAdapter,
    *,
    form: WeightFormat,
    slices: int | None,
    folder: Path,
    progress: Progress,
) -> ExpertList:
    """Writes the slices of every layer into `folder`.

    Args:
        weights: Read in `read_dtype(form)`.
        config: The model's configuration.
        adapter: Its family.
        form: How the slices are stored.
        slices: How many to cut; None to choose.
        folder: Where they go.
        progress: Who is told.

    Raises:
        FormatError: the slices' sizes do not fit the format.
        QuantizationError: a weight is infinite or not a number.
        SlicesError: the number asked for does not divide the intermediate size.
        CheckpointError: a tensor is missing or has another shape than the configuration says.
    """
    layers = adapter.moe_layers(config)
    whole = adapter.spec(config, read_dtype(form), layers[0])
    count = choose_slices(whole.intermediate, slices)
    spec = spec_in(replace(whole, intermediate=whole.intermediate // count), form)
    progress.start(f"Cutting into {count} slices a layer", spec.expert_bytes * count * len(layers))
    files, entries = [], []
    try:
        for index, layer in enumerate(layers):
            names = [tensor.name for tensor in adapter.on_disk(config, layer, 0)]
            _check_shapes(weights, names, whole)
            experts = _slices(weights, names, spec, count, progress)
            file, found = write_layer(folder, layer, spec, experts, count=count, file=index)
            files.append(file)
            entries.extend(found)
    finally:
        progress.finish()
    return ExpertList(folder, tuple(files), (spec,), tuple(entries), top_k=count, sliced=True)


def _check_shapes(weights: Weights, names: list[str], whole: ExpertSpec) -> None:
    for name, tensor in zip(names, whole.tensors(), strict=True):
        if weights.shape(name) != tensor.shape:
            raise CheckpointError(
                f"{name} is {list(weights.shape(name))}, but the configuration says {list(tensor.shape)}",
                advice="download the configuration and the weights from the same revision",
            )


def _slices(
    weights: Weights, names: list[str], spec: ExpertSpec, count: int, progress: Progress
) -> Iterator[list[torch.Tensor]]:
    gate, up, down = names
    width = spec.intermediate
    columns = weights.rows(down, 0, spec.hidden)  # [H, I]
    for start in range(0, count * width, width):
        stop = start + width
        matrices = (
            weights.rows(gate, start, stop),  # [W, H]
            weights.rows(up, start, stop),  # [W, H]
            columns[:, start:stop].contiguous(),  # [H, W]
        )
        yield [part for matrix in matrices for part in quantize(matrix, spec.format).tensors]
        progress.advance(spec.expert_bytes)
