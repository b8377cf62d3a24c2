"""Random experts in every format, and what they answer in float64, from their canonical bytes alone.

Guarantees: nothing of `folkmoot.kernels` but the spec is used, and each format's formula is written out here a second time,
number by number, in numpy.

Letters: n rows, H hidden size, I intermediate size, N rows and K columns of a matrix.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, TensorSpec, WeightFormat

Array = npt.NDArray[np.float64]

FORMS = (
    (Layout.SEPARATE, Activation.SWIGLU),
    (Layout.SEPARATE, Activation.GEGLU_TANH),
    (Layout.FUSED, Activation.SWIGLU),
    (Layout.FUSED_TRANSPOSED, Activation.SWIGLU),
    (Layout.INTERLEAVED_BIASED, Activation.CLAMPED_SWIGLU),
    (Layout.INTERLEAVED_ROWS_BIASED, Activation.CLAMPED_SWIGLU),
    (Layout.UNGATED, Activation.RELU_SQUARED),
)
"""Layouts with the activations that they have in published models."""

SIZE = 0.3
"""About how large the random weights are."""


def possible(form: WeightFormat, layout: Layout) -> bool:
    """Whether experts of a layout can be stored in a format."""
    if form is WeightFormat.FP8_BLOCK:
        return layout in (Layout.SEPARATE, Layout.UNGATED)
    return not form.quantized or layout.row_major


ALL_FORMS = tuple(
    (form, layout, activation)
    for form in WeightFormat
    for layout, activation in FORMS
    if possible(form, layout)
)
"""Every format in every layout that can be stored in it."""


def unit(form: WeightFormat) -> int:
    """What H and I must be multiples of."""
    return 32 if form in (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.MXFP4) else 1


def random_bytes(spec: ExpertSpec, seed: int) -> bytes:
    """Canonical bytes of an expert whose weights are of size `SIZE`."""
    generator = np.random.default_rng(seed)
    return b"".join(_random_tensor(spec, tensor, generator) for tensor in spec.tensors())


def _random_tensor(spec: ExpertSpec, tensor: TensorSpec, generator: np.random.Generator) -> bytes:
    spread = generator.uniform(0.5, 1.5, tensor.shape) * SIZE
    match (tensor.role.rpartition("_")[2], spec.format):
        case ("minima", _):
            return (-8 * spread / 5).astype(np.float16).tobytes()
        case ("scales", WeightFormat.MXFP4):
            return generator.integers(121, 127, tensor.shape, dtype=np.uint8).tobytes()
        case ("scales", form):
            steps = {WeightFormat.INT4: 5, WeightFormat.FP8_BLOCK: 150}.get(form, 73)
            wide = np.float16 if tensor.dtype == torch.float16 else np.float32
            return (spread / steps).astype(wide).tobytes()
    match tensor.dtype:
        case torch.int8:
            return generator.integers(-127, 128, tensor.shape, dtype=np.int8).tobytes()
        case torch.uint8:
            return generator.integers(0, 256, tensor.shape, dtype=np.uint8).tobytes()
        case torch.float8_e4m3fn:
            codes = generator.integers(0, 127, tensor.shape, dtype=np.uint8)
            return (codes | generator.integers(0, 2, tensor.shape, dtype=np.uint8) << 7).tobytes()
        case _:
            plain = torch.from_numpy(generator.normal(0, SIZE, tensor.shape)).to(tensor.dtype)
            return plain.view(torch.uint8).numpy().tobytes()


def decoded(spec: ExpertSpec, data: bytes) -> dict[str, Array]:
    """The matrices and biases of an expert by role, in float64."""
    parts, start = {}, 0
    for tensor in spec.tensors():
        end = start + math.prod(tensor.shape) * tensor.dtype.itemsize
        parts[tensor.role] = (tensor, data[start:end])
        start = end
    assert start == len(data)
    return {
        role: _matrix(spec, role, parts)
        for role in parts
        if role.rpartition("_")[2] not in ("scales", "minima")
    }


def _matrix(spec: ExpertSpec, role: str, parts: dict[str, tuple[TensorSpec, bytes]]) -> Array:
    tensor, data = parts[role]
    if role.endswith("bias") or not spec.format.quantized:
        return _float(data, tensor.dtype).reshape(tensor.shape)
    held, scales = parts[f"{role}_scales"]
    rows = tensor.shape[0]
    values: Array
    match spec.format:
        case WeightFormat.INT8:
            values = np.frombuffer(data, np.int8).astype(np.float64).reshape(rows, -1, 32)
            return (values * _float(scales, torch.float16).reshape(rows, -1, 1)).reshape(rows, -1)
        case WeightFormat.INT8_CHANNEL:
            values = np.frombuffer(data, np.int8).astype(np.float64).reshape(rows, -1)
            return values * _float(scales, torch.float32).reshape(rows, 1)
        case WeightFormat.INT4:
            values = _halves(data).astype(np.float64).reshape(rows, -1, 32)
            minima = _float(parts[f"{role}_minima"][1], torch.float16).reshape(rows, -1, 1)
            return (values * _float(scales, torch.float16).reshape(rows, -1, 1) + minima).reshape(rows, -1)
        case WeightFormat.FP8_BLOCK:
            values = np.array([_e4m3(code) for code in range(256)])[np.frombuffer(data, np.uint8)]
            squares = _float(scales, torch.float32).reshape(held.shape)
            spread = np.kron(squares, np.ones((128, 128)))[: tensor.shape[0], : tensor.shape[1]]
            return values.reshape(tensor.shape) * spread
        case _:
            codes = _halves(data)
            sizes: Array = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7] * np.where(codes & 8, -1, 1)
            powers: Array = 2.0 ** (np.frombuffer(scales, np.uint8).astype(np.float64) - 127)
            return (sizes.reshape(rows, -1, 32) * powers.reshape(rows, -1, 1)).reshape(rows, -1)


def _float(data: bytes, dtype: torch.dtype) -> Array:
    if dtype == torch.bfloat16:
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).astype(np.float64)
    return np.frombuffer(data, np.float16 if dtype == torch.float16 else np.float32).astype(np.float64)


def _halves(data: bytes) -> npt.NDArray[np.uint8]:
    packed = np.frombuffer(data, np.uint8)
    return np.stack([packed % 16, packed // 16], axis=-1).reshape(-1)


def _e4m3(code: int) -> float:
    sign, exponent, mantissa = -1 if code >> 7 else 1, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def opened(
    spec: ExpertSpec, data: bytes, rows: torch.Tensor, *, magnitudes: bool = False
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Gate (None without one) and up activations of rows [n, H]: [n, I] float64 each.

    Args:
        spec, data: The expert.
        rows: [n, H].
        magnitudes: Of all that is multiplied and added take the magnitude: what the terms of the sums amount to.
    """
    tensors, inputs = decoded(spec, data), rows.double().numpy()
    if magnitudes:
        tensors, inputs = {role: np.abs(tensor) for role, tensor in tensors.items()}, np.abs(inputs)
    gate, up = _first_products(spec, tensors, inputs)
    return None if spec.layout is Layout.UNGATED else torch.from_numpy(gate.copy()), torch.from_numpy(
        up.copy()
    )


def _first_products(spec: ExpertSpec, tensors: dict[str, Array], inputs: Array) -> tuple[Array, Array]:
    match spec.layout:
        case Layout.SEPARATE:
            return inputs @ tensors["gate"].T, inputs @ tensors["up"].T
        case Layout.FUSED:
            gate, up = np.split(inputs @ tensors["gate_up"].T, 2, axis=1)
        case Layout.FUSED_TRANSPOSED:
            gate, up = np.split(inputs @ tensors["gate_up"], 2, axis=1)
        case Layout.INTERLEAVED_BIASED:
            both = inputs @ tensors["gate_up"] + tensors["gate_up_bias"]
            gate, up = both[:, ::2], both[:, 1::2]
        case Layout.INTERLEAVED_ROWS_BIASED:
            both = inputs @ tensors["gate_up"].T + tensors["gate_up_bias"]
            gate, up = both[:, ::2], both[:, 1::2]
        case Layout.UNGATED:
            gate, up = np.zeros(1), inputs @ tensors["up"].T
    return gate, up


def oracle(spec: ExpertSpec, data: bytes, rows: torch.Tensor) -> torch.Tensor:
    """The expert's ungated answer to rows [n, H], in float64."""
    tensors, inputs = decoded(spec, data), rows.double().numpy()
    gate, up = _first_products(spec, tensors, inputs)
    match spec.activation:
        case Activation.SWIGLU:
            inner = gate / (1 + np.exp(-gate)) * up
        case Activation.GEGLU_TANH:
            inner = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) * up
        case Activation.CLAMPED_SWIGLU:
            gate, up = np.minimum(gate, spec.limit), np.clip(up, -spec.limit, spec.limit)
            inner = gate / (1 + np.exp(-spec.alpha * gate)) * (up + 1)
        case Activation.RELU_SQUARED:
            inner = np.maximum(up, 0) ** 2
    answer = inner @ (tensors["down"].T if spec.layout.row_major else tensors["down"])
    return torch.from_numpy(answer + tensors.get("down_bias", np.zeros(1)))


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The L2 norm of the difference over that of what is wanted."""
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-30))
