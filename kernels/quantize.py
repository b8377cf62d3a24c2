"""What the bytes of a quantized matrix mean, and how a float matrix becomes such bytes.

Guarantees: `dequantize` is the definition of every weight format: each element is what its format's formula gives in
float32, rounded once. `quantize` is deterministic: the same float32 numbers give the same bytes on every machine, for it
uses only elementwise IEEE operations and exact minima and maxima; rounding is to nearest even. Groups that came out of
GGUF's Q8_0 (int8) or Q4_1 (int4) and use the ends of their range come back as they were.

Letters: N rows (outputs), K columns (inputs), G groups of 32 inputs.
"""

from __future__ import annotations

import torch

from ..errors import ModelError
from .formats import BLOCK, DTYPES, GROUP, WeightFormat
from .matrix import Matrix

MADE_HERE = (WeightFormat.INT8, WeightFormat.INT8_CHANNEL, WeightFormat.INT4)
"""The quantized formats that `quantize` makes; the others are read as published."""

_INT8_MOST = 127
_INT4_MOST = 15
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_SCALE_BIAS = 127


class QuantizationError(ModelError):
    """A matrix cannot be stored in the format asked for."""


def quantize(weights: torch.Tensor, form: WeightFormat) -> Matrix:
    """Stores a matrix [N, K] in a format: a float format, or one of `MADE_HERE`.

    Raises:
        QuantizationError: K is no multiple of 32 and the format has groups, or a number is infinite, NaN or too large.
    """
    if not form.quantized:
        return Matrix(form, _converted(weights, form))
    if form not in MADE_HERE:
        raise QuantizationError(
            f"{form} is only read as published", advice=f"choose one of {', '.join(MADE_HERE)}"
        )
    weights = weights.float()
    if not bool(weights.isfinite().all()):
        raise QuantizationError(
            "a weight is infinite or not a number",
            advice="get the model's files again, or use another format",
        )
    if form is WeightFormat.INT8_CHANNEL:
        scales = weights.abs().amax(dim=1) / _INT8_MOST  # [N]
        return Matrix(form, _symmetric(weights, scales.unsqueeze(1)), scales)
    if weights.shape[1] % GROUP:
        raise QuantizationError(
            f"{form} needs rows of a multiple of {GROUP} numbers, not {weights.shape[1]}",
            advice=f"use {WeightFormat.INT8_CHANNEL}, which takes any size",
        )
    groups = grouped(weights)  # [N, G, 32]
    if form is WeightFormat.INT8:
        scales = _half(groups.abs().amax(dim=2) / _INT8_MOST)  # [N, G]
        return Matrix(form, _symmetric(groups, scales.float().unsqueeze(2)).flatten(1), scales)
    return _int4(groups)


def dequantize(matrix: Matrix) -> torch.Tensor:
    """The matrix in float32, [N, K]: what its bytes mean."""
    matrix = matrix.row_by_row()
    values, scales, minima = matrix.values, matrix.scales, matrix.minima
    if scales is None:
        return values.float()
    match matrix.format:
        case WeightFormat.INT8:
            return (grouped(values).float() * scales.float().unsqueeze(2)).flatten(1)
        case WeightFormat.INT8_CHANNEL:
            return values.float() * scales.unsqueeze(1)
        case WeightFormat.INT4 if minima is not None:
            steps = grouped(unpacked(values)).float()  # [N, G, 32]
            # float64 holds scale * q + minimum exactly, so this is one rounding however it is computed elsewhere.
            wide = steps.double() * scales.double().unsqueeze(2) + minima.double().unsqueeze(2)
            return wide.float().flatten(1)
        case WeightFormat.FP8_BLOCK:
            rows, columns = values.shape
            spread = scales.repeat_interleave(BLOCK, 1)[:, :columns].repeat_interleave(BLOCK, 0)[:rows]
            return values.float() * spread
        case _:
            table = torch.tensor(_E2M1, device=values.device)
            numbers = table[grouped(unpacked(values.flatten(1))).long()]  # [N, G, 32]
            return torch.ldexp(numbers, scales.int().unsqueeze(2) - _SCALE_BIAS).flatten(1)


def grouped(values: torch.Tensor) -> torch.Tensor:
    """A view by groups of 32 inputs: [N, K] to [N, G, 32]."""
    return values.reshape(values.shape[0], values.shape[1] // GROUP, GROUP)


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Two numbers of 4 bits out of each byte, low half first: [N, K / 2] to [N, K], uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _converted(weights: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    converted = weights.to(DTYPES[form])
    if bool((converted.isinf() & weights.isfinite()).any()):
        raise QuantizationError(f"a weight is too large for {form}", advice="choose bfloat16 or float32")
    return converted


def _symmetric(weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    steps = weights / torch.where(scales == 0, 1.0, scales)
    return steps.round().clamp_(-_INT8_MOST, _INT8_MOST).to(torch.int8)


def _int4(groups: torch.Tensor) -> Matrix:
    minima = groups.amin(dim=2).half()  # [N, G]
    if not bool(minima.isfinite().all()):
        raise QuantizationError("a weight is too large for int4", advice="choose a float format")
    above = groups.amax(dim=2) - minima.float()
    scales = _half(above.clamp_min(0) / _INT4_MOST)
    divisor = torch.where(scales == 0, 1.0, scales.float()).unsqueeze(2)
    steps = ((groups - minima.float().unsqueeze(2)) / divisor).round().clamp_(0, _INT4_MOST)
    halves = steps.to(torch.uint8).flatten(1)  # [N, K]
    return Matrix(WeightFormat.INT4, halves[:, 0::2] | (halves[:, 1::2] << 4), scales, minima)


def _half(numbers: torch.Tensor) -> torch.Tensor:
    """Scales in float16: the nearest, or the next above where float16 has so few bits left that a value at the end of the
    range would be cut off by more than a sixteenth of a step."""
    halves = numbers.half()
    if not bool(halves.isfinite().all()):
        raise QuantizationError("a weight is too large for a float16 scale", advice="choose a float format")
    raised = (halves.view(torch.int16) + 1).view(torch.float16)
    return torch.where(halves.float() * (1 + 2**-11) < numbers, raised, halves)
