"""Sketches of experts as they lie in memory, whatever their format.

Guarantees: what `trust.sketch.sketch_expert` makes of the dequantized weights, but for rounding: sums over a slice are float32,
those of slices float64, which moves a sketch by less than a float32 product over all of a matrix is off. Never more than a
slice of a matrix is dequantized at a time, so making a sketch takes little memory beside the expert's bytes.

Letters: k projections, H hidden size, I intermediate size, N rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch

from ...kernels.by_rows import by_rows
from ...kernels.expert import Expert
from ...kernels.matrix import Matrix
from ...kernels.quantize import dequantize
from ...trust.expert_arithmetic import Doubles, Floats
from ...trust.projections import Projections
from ...trust.sketch import ExpertSketch, SketchError

SLICE: Final = 128
"""Rows that are dequantized at once: whole squares of fp8_block."""


def sketch_of(projections: Projections, expert: Expert) -> ExpertSketch:
    """The sketch of an expert.

    Raises:
        SketchError: when a weight is not finite.
    """
    parts = by_rows(expert)
    inner, outer = projections.inner.astype(np.float64), projections.outer.astype(np.float64)
    made: dict[str, tuple[Floats, Floats]] = {}
    for role, vectors in (("gate", inner), ("up", inner), ("down", outer)):
        if role in parts:
            matrix, bias = parts[role]
            sums = _product(vectors, matrix)
            added = np.zeros(len(vectors)) if bias is None else vectors @ bias.double().numpy()
            made[role] = (_finite(sums), _finite(added))
    none = np.zeros(projections.count, np.float32)
    return ExpertSketch(
        projections=projections.identity,
        gate=np.asarray(made["gate"][0], np.float32) if "gate" in made else None,
        up=np.asarray(made["up"][0], np.float32),
        down=np.asarray(made["down"][0], np.float32),
        gate_bias=np.asarray(made["gate"][1], np.float32) if "gate" in made else none,
        up_bias=np.asarray(made["up"][1], np.float32),
        down_bias=np.asarray(made["down"][1], np.float32),
    )


def slices(matrix: Matrix) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows of a matrix [N, K] in float32, a slice at a time."""
    for start in range(0, matrix.rows, SLICE):
        rows = slice(start, min(start + SLICE, matrix.rows))
        yield rows, dequantize(matrix.take(rows))


def _product(vectors: Doubles, matrix: Matrix) -> Doubles:
    """Vectors [k, N] times a matrix [N, K]."""
    wanted = torch.from_numpy(vectors).float()
    total = torch.zeros(len(vectors), matrix.columns, dtype=torch.float64)
    for rows, part in slices(matrix):
        total += wanted[:, rows] @ part
    return total.numpy()


def _finite(numbers: Doubles) -> Floats:
    rounded = numbers.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise SketchError("the expert's weights are not finite")
    return rounded
