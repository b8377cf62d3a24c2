"""Experts as the native kernels see them: addresses and distances, no copies.

Guarantees: a struct made here points into the expert's tensors and is valid for as long as they live.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from .formats import Activation, ExpertSpec, Layout, WeightFormat
from .matrix import Matrix
from .native_library import FORMATS, ExpertStruct, FormStruct, MatrixStruct, load
from .panels import PANEL_ROWS

if TYPE_CHECKING:
    from .expert import Expert

FLOATS: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The float types among them, as torch names them."""
ACTIVATIONS: dict[Activation, int] = {
    Activation.SWIGLU: 0,
    Activation.GEGLU_TANH: 1,
    Activation.CLAMPED_SWIGLU: 2,
    Activation.RELU_SQUARED: 3,
}
"""`enum folkmoot_activation`."""
_BY_ROWS, _BY_COLUMNS, _INTERLEAVED_COLUMNS, _BY_PANELS, _INTERLEAVED_PANELS = range(5)
"""`enum folkmoot_layout`."""


@functools.lru_cache
def _form(spec: ExpertSpec, packed: bool) -> FormStruct:
    """What all experts of a spec have in common whose matrices lie in panels, or do not."""
    layouts = {Layout.FUSED_TRANSPOSED: _BY_COLUMNS, Layout.INTERLEAVED_BIASED: _INTERLEAVED_COLUMNS}
    layout = layouts.get(spec.layout, _BY_ROWS)
    if packed:
        interleaved = spec.layout is Layout.INTERLEAVED_ROWS_BIASED
        layout = _INTERLEAVED_PANELS if interleaved else _BY_PANELS
    return FormStruct(
        spec.hidden,
        spec.intermediate,
        FORMATS[spec.format],
        FLOATS[spec.bias_dtype],
        layout,
        ACTIVATIONS[spec.activation],
        spec.alpha,
        spec.limit,
    )


def expert_struct(expert: Expert) -> ExpertStruct | None:
    """Where an expert's matrices lie; None when its numbers are such that torch has to compute it."""
    struct = _matrices(expert)
    if struct is not None:
        struct.form = _form(expert.spec, expert.packed)
    return struct


def _matrices(expert: Expert) -> ExpertStruct | None:
    spec, weights = expert.spec, expert.weights
    gate_bias: torch.Tensor | None = None
    up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    library = load()
    if spec.format is WeightFormat.FP8_BLOCK and library is not None:
        for matrix in expert.matrices.values():
            if library.folkmoot_fp8_has_nan(matrix.values.data_ptr(), matrix.values.numel()):
                return None
    match spec.layout:
        case Layout.FUSED_TRANSPOSED:
            both, down = weights["gate_up"], weights["down"]
            return ExpertStruct(
                _columns(both[:, : spec.intermediate]), _columns(both[:, spec.intermediate :]), _columns(down)
            )
        case Layout.INTERLEAVED_BIASED:
            return ExpertStruct(
                _columns(weights["gate_up"], weights["gate_up_bias"]),
                MatrixStruct(),
                _columns(weights["down"], weights["down_bias"]),
            )
        case Layout.INTERLEAVED_ROWS_BIASED:
            bias, down_bias = weights["gate_up_bias"], weights["down_bias"]
            if expert.packed:
                rows_in_turn, down_matrix = expert.matrices["gate"], expert.matrices["down"]
                return ExpertStruct(
                    matrix_struct(rows_in_turn, bias), MatrixStruct(), matrix_struct(down_matrix, down_bias)
                )
            gate_bias, up_bias = bias[0::2], bias[1::2]
    matrices = expert.matrices
    return ExpertStruct(
        matrix_struct(matrices["gate"], gate_bias) if "gate" in matrices else MatrixStruct(),
        matrix_struct(matrices["up"], up_bias),
        matrix_struct(matrices["down"], down_bias),
    )


def matrix_struct(matrix: Matrix, bias: torch.Tensor | None) -> MatrixStruct:
    """Where a matrix by rows or by panels, and what is added to its products, lie."""
    values, scales, minima = matrix.values, matrix.scales, matrix.minima
    if matrix.packed is not None:
        # Panels take as many bytes as their rows, and matrices that share a tensor begin at whole ones.
        first = matrix.packed.start - matrix.packed.start % matrix.packed.step
        if first % PANEL_ROWS:
            raise ValueError(f"rows of panels from the middle of one: {matrix.packed}")
        values = values[first:]
        scales = None if scales is None else scales[first:]
        minima = None if minima is None else minima[first:]
    return MatrixStruct(
        values.data_ptr(),
        scales.data_ptr() if scales is not None else None,
        minima.data_ptr() if minima is not None else None,
        bias.data_ptr() if bias is not None else None,
        values.stride(0) * values.element_size(),
        scales.stride(0) if scales is not None else 0,
        bias.stride(0) if bias is not None else 0,
    )


def _columns(values: torch.Tensor, bias: torch.Tensor | None = None) -> MatrixStruct:
    return matrix_struct(Matrix(WeightFormat.FLOAT32, values), bias)
