"""An expert's weights, as views over its canonical bytes.

Guarantees: loading copies nothing and writes nothing; the views keep what they look into alive; bytes that do not fit the
spec are refused before a view exists.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import Buffer

from ..errors import ModelError
from .formats import ExpertSpec, Layout


class ExpertBytesError(ModelError):
    """An expert's bytes are not as many as its spec says."""


class Expert:
    """One expert, ready to be computed with.

    Attributes:
        spec: Its form.
        weights: Its tensors by role, each a view over the bytes given, shaped as in `ExpertSpec.tensors`.
        addresses: Where its gate, up and down matrices begin, for the native kernels; only in layouts that store each
            of them row by row.
    """

    __slots__ = ("addresses", "spec", "weights")

    def __init__(self, spec: ExpertSpec, parts: Sequence[Buffer]) -> None:
        """Makes views over one buffer for each tensor of `spec.tensors()`, in that order.

        Raises:
            ExpertBytesError: when the parts are not as many, or not as long, as the spec says.
        """
        tensors = spec.tensors()
        if len(parts) != len(tensors):
            raise ExpertBytesError(
                f"an expert of layout {spec.layout} has {len(tensors)} tensors, not {len(parts)}"
            )
        self.spec = spec
        self.weights: dict[str, torch.Tensor] = {}
        for tensor, part in zip(tensors, parts, strict=True):
            length = memoryview(part).nbytes
            if length != spec.tensor_bytes(tensor):
                raise ExpertBytesError(
                    f"{tensor.role} of {tensor.shape} in {spec.dtype} has {spec.tensor_bytes(tensor)} bytes, not {length}"
                )
            self.weights[tensor.role] = _view(part, spec.torch_dtype).view(tensor.shape)
        self.addresses = _addresses(spec, self.weights)

    @classmethod
    def load(cls, spec: ExpertSpec, data: Buffer) -> Expert:
        """Makes views over the canonical bytes of an expert, all tensors end to end.

        Raises:
            ExpertBytesError: when the bytes are not as many as the spec says.
        """
        view = memoryview(data).cast("B")
        if view.nbytes != spec.expert_bytes:
            raise ExpertBytesError(
                f"an expert has {spec.expert_bytes} canonical bytes here, not {view.nbytes}"
            )
        parts, start = [], 0
        for tensor in spec.tensors():
            end = start + spec.tensor_bytes(tensor)
            parts.append(view[start:end])
            start = end
        return cls(spec, parts)


def _addresses(spec: ExpertSpec, weights: dict[str, torch.Tensor]) -> tuple[int, int, int]:
    match spec.layout:
        case Layout.SEPARATE:
            return weights["gate"].data_ptr(), weights["up"].data_ptr(), weights["down"].data_ptr()
        case Layout.FUSED:
            gate = weights["gate_up"].data_ptr()
            half = spec.intermediate * spec.hidden * spec.torch_dtype.itemsize
            return gate, gate + half, weights["down"].data_ptr()
        case _:
            return 0, 0, 0


def _view(buffer: Buffer, dtype: torch.dtype) -> torch.Tensor:
    array = np.frombuffer(memoryview(buffer), dtype=np.uint8)
    if array.flags.writeable:
        return torch.frombuffer(array, dtype=dtype)
    # torch warns of read-only memory, which a mapped file should be; it is told of the address instead. The attribute
    # keeps the mapping alive for as long as torch holds the ctypes object.
    memory = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    memory.owner = array  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=dtype)
