"""`F.linear` by the native kernels, for the few rows at which they beat torch.

Guarantees: the answer is a float32 sum rounded once, or None, and then torch has to compute it.

Letters: R rows, K inner and N outer size.
"""

from __future__ import annotations

import torch

from .formats import WeightFormat
from .native_expert import FLOATS
from .native_library import MatrixStruct, check, load
from .native_rows import most_rows
from .threads import native_threads

_FORMATS = {
    torch.float32: WeightFormat.FLOAT32,
    torch.bfloat16: WeightFormat.BFLOAT16,
    torch.float16: WeightFormat.FLOAT16,
}


def linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor | None:
    """`F.linear` for few rows, or None when torch has to do it.

    Args:
        rows: [..., K] of a float type of at most 32 bits.
        weight: [N, K] of the same type.
        bias: [N] of the same type, or None.

    Returns:
        [..., N] of the same type, each element a float32 sum rounded once.
    """
    outer, inner = weight.shape
    if (
        rows.dtype not in _FORMATS
        or rows.numel() > most_rows(_FORMATS[rows.dtype], rows.dtype) * inner
        or weight.dtype != rows.dtype
        or weight.stride(1) != 1
        or (bias is not None and (bias.dtype != rows.dtype or bias.stride(0) != 1))
    ):
        return None
    library = load()
    if library is None:
        return None
    rows = rows.contiguous()
    output = torch.empty((*rows.shape[:-1], outer), dtype=rows.dtype)
    form = FLOATS[rows.dtype]
    matrix = MatrixStruct(
        weight.data_ptr(),
        None,
        None,
        None if bias is None else bias.data_ptr(),
        weight.stride(0) * weight.element_size(),
        0,
        1,
    )
    check(
        library.folkmoot_linear(
            matrix,
            form,
            form,
            outer,
            inner,
            rows.data_ptr(),
            form,
            rows.numel() // inner,
            output.data_ptr(),
            native_threads(),
        )
    )
    return output
