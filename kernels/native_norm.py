"""Root-mean-square normalization of few rows by the native kernels, in one pass instead of eight.

Guarantees: the mean square is a float64 sum; what is normalized is rounded to the rows' type before it is multiplied by the
weight and rounded again, as the modules of transformers do it.

Letters: R rows, K width.
"""

from __future__ import annotations

import torch

from .native_expert import FLOATS
from .native_library import check, load

MOST_NUMBERS = 1 << 16
"""Up to so many, one thread is faster than torch."""


def rms_norm(rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor | None:
    """`weight * (rows / sqrt(mean(rows^2) + epsilon))` for few rows, or None when torch has to do it.

    Args:
        rows: [..., K] of a float type of at most 32 bits.
        weight: [K] of the same type.
        epsilon: What is added to the mean square.
    """
    if (
        rows.dtype not in FLOATS
        or rows.numel() > MOST_NUMBERS
        or weight.dtype != rows.dtype
        or weight.shape != rows.shape[-1:]
        or weight.stride(0) != 1
    ):
        return None
    library = load()
    if library is None:
        return None
    rows = rows.contiguous()
    output = torch.empty_like(rows)
    width = len(weight)
    check(
        library.folkmoot_rms_norm(
            rows.data_ptr(),
            weight.data_ptr(),
            FLOATS[rows.dtype],
            rows.numel() // width if width else 0,
            width,
            epsilon,
            output.data_ptr(),
        )
    )
    return output
