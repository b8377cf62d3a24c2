"""How an expert lies in a GPU's memory: one buffer, each tensor of each matrix row by row at an aligned place.

Guarantees: packing changes the order of bytes and nothing else (biases are widened to float32); where each tensor begins
follows from the expert's spec alone, so that one address an expert is all that a kernel needs.

Letters: H hidden size, I intermediate size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..by_rows import biased, by_rows
from ..expert import Expert
from ..formats import ExpertSpec, Layout, matrix_tensors

ALIGNMENT = 128
"""Bytes; what a GPU reads at once."""


@dataclass(frozen=True)
class Place:
    """Where a matrix lies, in bytes from the start of the expert's buffer; 0 for what it has not."""

    values: int
    scales: int
    minima: int
    bias: int


@dataclass(frozen=True)
class Packing:
    """The buffer of an expert.

    Attributes:
        places: Where `gate` [I, H] (if there is one), `up` [I, H] and `down` [H, I] lie.
        size: The bytes of the buffer.
    """

    places: Mapping[str, Place]
    size: int


@functools.cache
def packing(spec: ExpertSpec) -> Packing:
    """The buffer of experts of a form."""
    places, end = {}, 0
    shapes = {"up": (spec.intermediate, spec.hidden), "down": (spec.hidden, spec.intermediate)}
    if spec.layout is not Layout.UNGATED:
        shapes = {"gate": shapes["up"], **shapes}
    for role, (rows, columns) in shapes.items():
        offsets = []
        for tensor in matrix_tensors(spec.format, role, rows, columns):
            offsets.append(end)
            end = _aligned(end + math.prod(tensor.shape) * tensor.dtype.itemsize)
        values, scales, minima = (*offsets, 0, 0)[:3]
        places[role] = Place(values, scales, minima, end if biased(spec) else 0)
        if biased(spec):
            end = _aligned(end + rows * torch.float32.itemsize)
    return Packing(places, end)


def pack(expert: Expert) -> torch.Tensor:
    """The buffer of one expert, uint8, in the CPU's memory."""
    plan = packing(expert.spec)
    buffer = torch.zeros(plan.size, dtype=torch.uint8)
    for role, (matrix, bias) in by_rows(expert).items():
        place = plan.places[role]
        for offset, tensor in zip((place.values, place.scales, place.minima), matrix.tensors, strict=False):
            _put(buffer, offset, tensor)
        if bias is not None:
            _put(buffer, place.bias, bias.float())
    return buffer


def _put(buffer: torch.Tensor, offset: int, tensor: torch.Tensor) -> None:
    raw = tensor.contiguous().view(-1).view(torch.uint8)
    buffer[offset : offset + raw.numel()] = raw


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
