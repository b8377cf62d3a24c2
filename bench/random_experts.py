"""A model that is only experts, in any format, layout and activation, with random weights.

Guarantees: the same arguments give the same bytes; weights are spread as `SIZE` says whatever stores them, so thresholds of one
format can be set beside another's. It reads like a prepared model.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from ..ids import ExpertKey
from ..kernels.formats import Activation, ExpertSpec, Layout, TensorSpec, WeightFormat
from ..models.manifest import ByteRange, ExpertEntry, Manifest, SourceFile

SIZE = 0.02
"""About the standard deviation of all weights."""
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
_LARGEST = {
    WeightFormat.INT8: 127,
    WeightFormat.INT8_CHANNEL: 127,
    WeightFormat.INT4: 15,
    WeightFormat.FP8_BLOCK: 448,
}


def possible(form: WeightFormat, layout: Layout) -> bool:
    """Whether experts of a layout can be stored in a format."""
    if form is WeightFormat.FP8_BLOCK:
        return layout in (Layout.SEPARATE, Layout.UNGATED)
    return not form.quantized or layout.row_major


class RandomExperts:
    """Experts of one layer and one spec."""

    def __init__(self, spec: ExpertSpec, dtype: str, experts: int, seed: int) -> None:
        """`dtype` is that of activations."""
        generator = np.random.default_rng(seed)
        keys = [ExpertKey(0, expert) for expert in range(experts)]
        self._bytes = {
            key: b"".join(_random(spec, tensor, generator) for tensor in spec.tensors()) for key in keys
        }
        entries, offset = {}, 0
        for key in keys:
            ranges = []
            for tensor in spec.tensors():
                ranges.append(ByteRange(0, offset, spec.tensor_bytes(tensor)))
                offset += spec.tensor_bytes(tensor)
            entries[key] = ExpertEntry(key, 0, tuple(ranges), hashlib.sha256(self._bytes[key]).hexdigest())
        self.manifest = Manifest(
            name="random-experts",
            family="random",
            top_k=1,
            dtype=dtype,
            sliced=False,
            files=(SourceFile("experts.bin", offset),),
            specs=(spec,),
            experts=entries,
        )

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        """Canonical bytes of an expert."""
        return self._bytes[key][offset : None if length is None else offset + length]


def _random(spec: ExpertSpec, tensor: TensorSpec, generator: np.random.Generator) -> bytes:
    """Values are uniform over what the format holds; scales make them as wide as numbers of deviation `SIZE` are."""
    reach = SIZE * math.sqrt(12) / 2
    spread = generator.uniform(0.8, 1.2, tensor.shape) * reach
    match (tensor.role.rpartition("_")[2], spec.format):
        case ("minima", _):
            return np.full(tensor.shape, -reach, np.float16).tobytes()
        case ("scales", WeightFormat.MXFP4):
            # 2^-7 times at most 6: as wide as the others within a factor of two.
            return generator.integers(119, 122, tensor.shape, dtype=np.uint8).tobytes()
        case ("scales", WeightFormat.INT4):
            return (2 * spread / _LARGEST[WeightFormat.INT4]).astype(np.float16).tobytes()
        case ("scales", form):
            wide = np.float16 if tensor.dtype == torch.float16 else np.float32
            return (spread / _LARGEST[form]).astype(wide).tobytes()
    match tensor.dtype:
        case torch.int8:
            return generator.integers(-127, 128, tensor.shape, dtype=np.int8).tobytes()
        case torch.uint8:
            return generator.integers(0, 256, tensor.shape, dtype=np.uint8).tobytes()
        case torch.float8_e4m3fn:
            plain = torch.from_numpy(generator.uniform(-448, 448, tensor.shape)).float()
            return plain.to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
        case _:
            plain = torch.from_numpy(generator.normal(0, SIZE, tensor.shape)).to(tensor.dtype)
            return plain.view(torch.uint8).numpy().tobytes()
