"""What the native kernels make of the inputs of whole-number weights, for those who must allow it without having these kernels.

Guarantees: inputs are int16 with one float32 scale for each group of 32, as `native/inputs.h` packs them; nothing else is rounded. Matrix
tiles round otherwise, and only where rows are bfloat16, whose own rounding is a hundred times as large.

Letters: n rows, K inputs.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F

from .formats import GROUP, WeightFormat
from .quantize import grouped

WHOLE: Final = frozenset(
    {WeightFormat.INT8, WeightFormat.INT8_CHANNEL, WeightFormat.INT4, WeightFormat.MXFP4}
)
"""The formats that are multiplied as whole numbers, so that inputs are too."""
_MOST: Final = 32767
_LEAST: Final = 1e-30
"""Groups with nothing larger are zeros."""


def rounded_inputs(rows: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    """Rows [n, K] as kernels read them beside weights of a format: [n, K] float32; float weights take them as they are."""
    rows = rows.float()
    if form not in WHOLE:
        return rows
    groups = grouped(F.pad(rows, (0, -rows.shape[1] % GROUP)))  # [n, groups, 32]
    largest = groups.abs().amax(dim=2, keepdim=True)
    inverse = torch.where(largest > _LEAST, _MOST / largest, 0.0)
    rounded: torch.Tensor = (groups * inverse).round() * (largest / _MOST)
    return rounded.flatten(1)[:, : rows.shape[1]]
