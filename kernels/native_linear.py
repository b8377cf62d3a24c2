"""`F.linear` by the native kernels, for the few rows at which they beat torch.

Guarantees: the answer is a float32 sum rounded once, or not at all where float32 is asked for; or None, and then torch has to
compute it.

Letters: R rows, K inner and N outer size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .formats import WeightFormat
from .native_expert import FLOATS
from .native_library import LayerStruct, MatrixStruct, check, load
from .native_rows import most_rows
from .threads import native_threads

_FORMATS = {
    torch.float32: WeightFormat.FLOAT32,
    torch.bfloat16: WeightFormat.BFLOAT16,
    torch.float16: WeightFormat.FLOAT16,
}


def most_rows_of(rows: torch.Tensor) -> int:
    """How many rows of this type, by weights of the same, are best computed at once; 0 of other types."""
    return most_rows(_FORMATS[rows.dtype], rows.dtype) if rows.dtype in _FORMATS else 0


def linear(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype | None = None
) -> torch.Tensor | None:
    """`F.linear` for few rows, or None when torch has to do it.

    Args:
        rows: [..., K] of a float type of at most 32 bits.
        weight: [N, K] of the same type.
        bias: [N] of the same type, or None.
        dtype: Of the answer; that of the rows when None.

    Returns:
        [..., N], each element a float32 sum rounded once to `dtype`.
    """
    answers = linears(rows, ((weight, bias),), dtype)
    return None if answers is None else answers[0]


def linears(
    rows: torch.Tensor,
    layers: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
    answer_dtype: torch.dtype | None = None,
) -> list[torch.Tensor] | None:
    """`linear` of the same rows by several weights and biases at once, or None when torch has to do one of them.

    Weights that are read one after another cost less than as many calls: threads are woken once.
    """
    dtype, inner = rows.dtype, rows.shape[-1]
    if dtype not in _FORMATS or rows.numel() > most_rows_of(rows) * inner:
        return None
    library = load()
    if library is None or not all(_is_plain(weight, bias, dtype, inner) for weight, bias in layers):
        return None
    rows = rows.contiguous()
    answer_dtype = answer_dtype or dtype
    outputs = [torch.empty((*rows.shape[:-1], len(weight)), dtype=answer_dtype) for weight, _ in layers]
    form = FLOATS[dtype]
    structs = (LayerStruct * len(layers))(
        *(
            LayerStruct(_matrix(weight, bias), len(weight), output.data_ptr())
            for (weight, bias), output in zip(layers, outputs, strict=True)
        )
    )
    check(
        library.folkmoot_linear(
            structs,
            len(layers),
            form,
            form,
            inner,
            rows.data_ptr(),
            form,
            FLOATS[answer_dtype],
            rows.numel() // inner,
            native_threads(),
        )
    )
    return outputs


def _is_plain(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, inner: int) -> bool:
    return (
        weight.dtype == dtype
        and weight.shape[1] == inner
        and weight.stride(1) == 1
        and (bias is None or (bias.dtype == dtype and bias.stride(0) == 1))
    )


def _matrix(weight: torch.Tensor, bias: torch.Tensor | None) -> MatrixStruct:
    return MatrixStruct(
        weight.data_ptr(),
        None,
        None,
        None if bias is None else bias.data_ptr(),
        weight.stride(0) * weight.element_size(),
        0,
        1,
    )
