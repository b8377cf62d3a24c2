"""An expert's first products in float32 by the native kernels, which read weights and rows as they are.

Guarantees: sums are float32 and nothing is rounded to less; None for what the kernels would round (whole numbers, whose inputs they
round to 16 bits), cannot read, or are slower at than torch.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .expert import Expert
from .matrix import Matrix
from .native_expert import FLOATS, matrix_struct
from .native_library import FORMATS, LayerStruct, check, load
from .native_rows import most_rows
from .threads import native_threads
from .whole_inputs import WHOLE


def products(expert: Expert, matrices: Sequence[Matrix], rows: torch.Tensor) -> list[torch.Tensor] | None:
    """Rows [n, H] times matrices [I, H] of an expert: [n, I] float32 each; None when torch has to compute it."""
    spec, library = expert.spec, load()
    if library is None or spec.format in WHOLE or not spec.layout.row_major or expert.native is None:
        return None
    if rows.dtype not in FLOATS or not 0 < len(rows) <= most_rows(spec.format, rows.dtype):
        return None
    rows = rows.contiguous()
    outputs = [torch.empty(len(rows), matrix.rows) for matrix in matrices]  # [n, I]
    layers = (LayerStruct * len(matrices))(
        *(
            LayerStruct(matrix_struct(matrix, None), matrix.rows, output.data_ptr())
            for matrix, output in zip(matrices, outputs, strict=True)
        )
    )
    form, wide = FLOATS[rows.dtype], FLOATS[torch.float32]
    check(
        library.folkmoot_linear(
            layers,
            len(layers),
            FORMATS[spec.format],
            wide,
            spec.hidden,
            rows.data_ptr(),
            form,
            wide,
            len(rows),
            native_threads(),
        )
    )
    return outputs
