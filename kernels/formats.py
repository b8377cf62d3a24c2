"""What an expert's canonical bytes are: which tensors, in which order, of which shape and type.

Guarantees: an `ExpertSpec` fixes, with nothing else, how many canonical bytes an expert has and where each tensor lies in
them. Canonical bytes are the tensors of `ExpertSpec.tensors()` end to end, each row-major and little-endian as published.
What the bytes of a quantized matrix mean is defined by `quantize.dequantize`.

Letters: H hidden size, I intermediate size of one expert, N rows (outputs) and K columns (inputs) of a matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch

GROUP = 32
"""Neighbouring inputs of one row that share a scale in int8, int4 and mxfp4."""
BLOCK = 128
"""Rows and columns of the squares that share a scale in fp8_block."""


class WeightFormat(StrEnum):
    """How the numbers of a matrix are stored. Biases are never quantized."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    """w = scale * q: q int8 in [-127, 127], one float16 scale for each group of 32 inputs."""
    INT8_CHANNEL = "int8_channel"
    """w = scale * q: q int8 in [-127, 127], one float32 scale for each row."""
    INT4 = "int4"
    """w = scale * q + minimum: q in [0, 15], two to a byte, low half first; float16 scale and minimum for each group of 32
    inputs. A minimum is as fast as an integer zero point (either is one product with the inputs' sum over the group),
    loses less at the ends of the range, and holds GGUF's Q4_1 as it is."""
    FP8_BLOCK = "fp8_block"
    """w = scale * q: q float8_e4m3fn, one float32 scale for each square of 128 x 128, the last ones cut off by the edge
    (DeepSeek-V3's `weight_scale_inv`)."""
    MXFP4 = "mxfp4"
    """w = 2^(scale - 127) * e2m1(q): q of 4 bits, two to a byte, low half first; one scale byte for each group of 32
    inputs (GPT-OSS's `_blocks` and `_scales`; OCP Microscaling Formats 1.0)."""

    @property
    def quantized(self) -> bool:
        """Whether a matrix has scales beside its values."""
        return self.value not in DTYPES


DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The float types, of weights and of activations, by the names that the manifest has for them."""


class Layout(StrEnum):
    """Which matrices an expert has; the order of roles is the order of canonical bytes."""

    SEPARATE = "separate"
    """gate [I, H], up [I, H], down [H, I] (Mixtral w1 w3 w2, Qwen, DeepSeek, OLMoE, ...)."""
    FUSED = "fused"
    """gate_up [2I, H] with gate first, down [H, I] (Granite)."""
    FUSED_TRANSPOSED = "fused_transposed"
    """gate_up [H, 2I] with gate first, down [I, H] (Llama 4)."""
    INTERLEAVED_BIASED = "interleaved_biased"
    """gate_up [H, 2I] with gate and up in alternate columns, gate_up_bias [2I], down [I, H], down_bias [H] (GPT-OSS in
    16 bits)."""
    INTERLEAVED_ROWS_BIASED = "interleaved_rows_biased"
    """gate_up [2I, H] with gate and up in alternate rows, gate_up_bias [2I], down [H, I], down_bias [H] (GPT-OSS as
    published)."""
    UNGATED = "ungated"
    """up [I, H], down [H, I]."""

    @property
    def row_major(self) -> bool:
        """Whether each matrix is stored output by output, which quantization along the inputs needs."""
        return self.by_rows is self

    @property
    def by_rows(self) -> Layout:
        """The layout that has the same matrices output by output."""
        match self:
            case Layout.FUSED_TRANSPOSED:
                return Layout.FUSED
            case Layout.INTERLEAVED_BIASED:
                return Layout.INTERLEAVED_ROWS_BIASED
            case _:
                return self


class Activation(StrEnum):
    """What stands between the first and the second product."""

    SWIGLU = "swiglu"
    """silu(gate) * up."""
    GEGLU_TANH = "geglu_tanh"
    """gelu(gate, tanh approximation) * up."""
    CLAMPED_SWIGLU = "clamped_swiglu"
    """GPT-OSS: gate clamped above, up clamped both ways, gate * sigmoid(alpha * gate) * (up + 1)."""
    RELU_SQUARED = "relu_squared"
    """relu(up)^2; there is no gate."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an expert: what it is for, its shape, and the type in which its elements are stored."""

    role: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ExpertSpec:
    """The form that experts of one kind share: sizes, weight format, layout and activation.

    Attributes:
        hidden: H.
        intermediate: I.
        dtype: The weight format, a value of `WeightFormat`.
        layout: Which matrices there are.
        activation: What stands between the products.
        alpha: Of the clamped SwiGLU.
        limit: Of the clamped SwiGLU.
    """

    hidden: int
    intermediate: int
    dtype: str
    layout: Layout
    activation: Activation = Activation.SWIGLU
    alpha: float = 1.702
    limit: float = 7.0

    def __post_init__(self) -> None:
        if self.hidden <= 0 or self.intermediate <= 0:
            raise ValueError(f"an expert cannot be {self.hidden} x {self.intermediate}")
        if self.dtype not in list(WeightFormat):
            raise ValueError(f"no such weight type: {self.dtype}; known are {', '.join(WeightFormat)}")
        if (self.activation is Activation.RELU_SQUARED) != (self.layout is Layout.UNGATED):
            raise ValueError(f"{self.activation} does not go with layout {self.layout}")
        if self.format.quantized and not self.layout.row_major:
            raise ValueError(f"{self.dtype} needs matrices row by row, which layout {self.layout} has not")
        if self.format is WeightFormat.FP8_BLOCK and self.layout not in (Layout.SEPARATE, Layout.UNGATED):
            raise ValueError(f"{self.dtype} needs each matrix by itself, which layout {self.layout} has not")
        if self.format in (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.MXFP4) and (
            self.hidden % GROUP or self.intermediate % GROUP
        ):
            raise ValueError(
                f"{self.dtype} needs sizes that are multiples of {GROUP}, not {self.hidden} x {self.intermediate}"
            )

    @property
    def format(self) -> WeightFormat:
        """How the matrices are stored."""
        return WeightFormat(self.dtype)

    @property
    def bias_dtype(self) -> torch.dtype:
        """How biases are stored: as the weights are, as GPT-OSS publishes them beside mxfp4, or in full."""
        if self.format is WeightFormat.MXFP4:
            return torch.bfloat16
        return DTYPES.get(self.dtype, torch.float32)

    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors of one expert in canonical order; a matrix's values come first, its scales next."""
        hidden, intermediate = self.hidden, self.intermediate
        match self.layout:
            case Layout.SEPARATE:
                return (
                    *self._matrix("gate", intermediate, hidden),
                    *self._matrix("up", intermediate, hidden),
                    *self._matrix("down", hidden, intermediate),
                )
            case Layout.FUSED:
                return (
                    *self._matrix("gate_up", 2 * intermediate, hidden),
                    *self._matrix("down", hidden, intermediate),
                )
            case Layout.FUSED_TRANSPOSED:
                return (
                    *self._matrix("gate_up", hidden, 2 * intermediate),
                    *self._matrix("down", intermediate, hidden),
                )
            case Layout.INTERLEAVED_BIASED:
                return (
                    *self._matrix("gate_up", hidden, 2 * intermediate),
                    TensorSpec("gate_up_bias", (2 * intermediate,), self.bias_dtype),
                    *self._matrix("down", intermediate, hidden),
                    TensorSpec("down_bias", (hidden,), self.bias_dtype),
                )
            case Layout.INTERLEAVED_ROWS_BIASED:
                return (
                    *self._matrix("gate_up", 2 * intermediate, hidden),
                    TensorSpec("gate_up_bias", (2 * intermediate,), self.bias_dtype),
                    *self._matrix("down", hidden, intermediate),
                    TensorSpec("down_bias", (hidden,), self.bias_dtype),
                )
            case Layout.UNGATED:
                return (
                    *self._matrix("up", intermediate, hidden),
                    *self._matrix("down", hidden, intermediate),
                )

    def _matrix(self, role: str, rows: int, columns: int) -> tuple[TensorSpec, ...]:
        return matrix_tensors(self.format, role, rows, columns)

    def tensor_bytes(self, tensor: TensorSpec) -> int:
        """How many bytes one tensor of the expert has."""
        return math.prod(tensor.shape) * tensor.dtype.itemsize

    @property
    def expert_bytes(self) -> int:
        """How many canonical bytes one expert has."""
        return sum(self.tensor_bytes(tensor) for tensor in self.tensors())


def matrix_tensors(form: WeightFormat, role: str, rows: int, columns: int) -> tuple[TensorSpec, ...]:
    """The tensors that store a matrix [N, K]: its values under the role itself, then `_scales`, then `_minima`."""
    groups = (rows, columns // GROUP)
    scales, minima = f"{role}_scales", f"{role}_minima"
    match form:
        case WeightFormat.INT8:
            return (
                TensorSpec(role, (rows, columns), torch.int8),
                TensorSpec(scales, groups, torch.float16),
            )
        case WeightFormat.INT8_CHANNEL:
            return (
                TensorSpec(role, (rows, columns), torch.int8),
                TensorSpec(scales, (rows,), torch.float32),
            )
        case WeightFormat.INT4:
            return (
                TensorSpec(role, (rows, columns // 2), torch.uint8),
                TensorSpec(scales, groups, torch.float16),
                TensorSpec(minima, groups, torch.float16),
            )
        case WeightFormat.FP8_BLOCK:
            squares = (-(-rows // BLOCK), -(-columns // BLOCK))
            return (
                TensorSpec(role, (rows, columns), torch.float8_e4m3fn),
                TensorSpec(scales, squares, torch.float32),
            )
        case WeightFormat.MXFP4:
            return (
                TensorSpec(role, (*groups, GROUP // 2), torch.uint8),
                TensorSpec(scales, groups, torch.uint8),
            )
        case _:
            return (TensorSpec(role, (rows, columns), DTYPES[form]),)
