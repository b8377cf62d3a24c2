"""What an audit asks a node to open: the products before an expert's activation.

Guarantees: computed from the canonical weights in float32 throughout, biases included, whatever computed the result; nothing
is rounded to less. Torch widens weights that are not float32 a slice at a time, so that an opening takes little memory.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import functools

import torch

from . import native_opening
from .by_rows import by_rows
from .expert import Expert
from .matrix import Matrix
from .quantize import dequantize

SLICE = 1024
"""Neurons whose weights are widened at once; whole squares of fp8_block."""


def open_expert(expert: Expert, rows: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Gate and up activations of rows that go through one expert.

    Args:
        expert: In any format, layout and activation.
        rows: [n, H], of any float type.

    Returns:
        Gate, None where the layout has none, and up: [n, I] float32 each.
    """
    parts = by_rows(expert)
    wanted = [parts[role] for role in ("gate", "up") if role in parts]
    found = native_opening.products(expert, [matrix for matrix, _ in wanted], rows)
    if found is None:
        inputs = rows.float()
        found = [_product(inputs, matrix) for matrix, _ in wanted]
    for output, (_, bias) in zip(found, wanted, strict=True):
        if bias is not None:
            output += bias.float()
    return (found[0] if "gate" in parts else None), found[-1]


def stands_in(expert: Expert, rows: torch.dtype) -> torch.dtype:
    """The type that gate and up activations of rows of this type surely stand in when a result is computed: float32 where
    they are not rounded, or where one path of this machine rounds them and another does not.
    """
    if expert.native is not None or expert.spec.format.quantized or torch.cuda.is_available():
        return torch.float32
    weights = (tensor.dtype for tensor in expert.weights.values())
    return functools.reduce(torch.promote_types, weights, rows)


def _product(rows: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    output = torch.empty(len(rows), matrix.rows)  # [n, I]
    for start in range(0, matrix.rows, SLICE):
        neurons = slice(start, min(start + SLICE, matrix.rows))
        torch.matmul(rows, dequantize(matrix.take(neurons)).T, out=output[:, neurons])
    return output
