"""Writes one layer's experts where they must be made: slices of a dense model, out of GGUF, or in another weight format.

Guarantees: canonical bytes of one expert lie end to end in the file, and are hashed as they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from ...ids import ExpertKey
from ...kernels.formats import ExpertSpec
from ...kernels.quantize import QuantizationError
from ..manifest import ByteRange, ExpertEntry, SourceFile
from .tensor_file import TensorFile


def write_layer(
    folder: Path,
    layer: int,
    spec: ExpertSpec,
    experts: Iterable[Iterable[torch.Tensor]],
    *,
    count: int,
    file: int,
) -> tuple[SourceFile, list[ExpertEntry]]:
    """Writes one layer's experts into a file of their own.

    Args:
        folder: Where the file goes.
        layer: The decoder layer.
        spec: The form of its experts.
        experts: The tensors of each expert in canonical order; only one expert's are held at a time.
        count: How many experts there are.
        file: The index that the file will have in the manifest.

    Returns:
        The file, and an entry for each expert, whose `spec` is 0.

    Raises:
        QuantizationError: an expert cannot be stored so; says which.
    """
    path = folder / f"experts-{layer:05d}.safetensors"
    names = [
        {tensor.role: f"layers.{layer}.experts.{expert}.{tensor.role}" for tensor in spec.tensors()}
        for expert in range(count)
    ]
    announced = {
        name[tensor.role]: (tensor.dtype, tensor.shape) for name in names for tensor in spec.tensors()
    }
    entries: list[ExpertEntry] = []
    with TensorFile(path, announced) as output:
        try:
            for expert, (name, weights) in enumerate(zip(names, experts, strict=True)):
                state, ranges = hashlib.sha256(), []
                for tensor, weight in zip(spec.tensors(), weights, strict=True):
                    state.update(output.write(name[tensor.role], weight))
                    place = output.locations[name[tensor.role]]
                    ranges.append(ByteRange(file, place.offset, place.length))
                entries.append(ExpertEntry(ExpertKey(layer, expert), 0, tuple(ranges), state.hexdigest()))
        except QuantizationError as error:
            whose = f"layer {layer} expert {len(entries)}"
            raise QuantizationError(f"{whose}: {error.message}", advice=error.advice) from error
        size = output.size
    return SourceFile(path.name, size), entries
