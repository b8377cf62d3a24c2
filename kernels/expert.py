"""An expert's weights, as views over its canonical bytes.

Guarantees: loading copies nothing but a tensor whose elements are not aligned, and writes nothing; the views keep what they look into
alive; bytes that do not fit the spec are refused before a view exists. Only `pack` writes, and only into memory that may be written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from typing_extensions import Buffer

from ..errors import ModelError
from . import panels
from .formats import ExpertSpec, Layout, matrix_tensors
from .matrix import Matrix
from .native_expert import expert_struct
from .native_library import ExpertStruct


class ExpertBytesError(ModelError):
    """An expert's bytes are not as many as its spec says."""


class Expert:
    """One expert, ready to be computed with.

    Attributes:
        spec: Its form.
        weights: Its tensors by role, each a view over the bytes given, shaped as in `ExpertSpec.tensors`. Of a packed expert, whose
            bytes are no canonical ones any more, the biases alone.
        matrices: Its matrices `gate` [I, H], `up` [I, H] and `down` [H, I] (no gate where the layout has none), cut out of
            the weights; empty in the layouts that store them column by column.
        packed: Whether the rows of its matrices lie in panels.
    """

    __slots__ = ("__weakref__", "_native", "_writable", "matrices", "packed", "spec", "weights")

    def __init__(self, spec: ExpertSpec, parts: Sequence[Buffer]) -> None:
        """Makes views over one buffer for each tensor of `spec.tensors()`, in that order.

        Raises:
            ExpertBytesError: when the parts are not as many, or not as long, as the spec says.
        """
        tensors = spec.tensors()
        if len(parts) != len(tensors):
            raise ExpertBytesError(
                f"an expert of layout {spec.layout} in {spec.dtype} has {len(tensors)} tensors, not {len(parts)}"
            )
        self.spec = spec
        self.weights: dict[str, torch.Tensor] = {}
        for tensor, part in zip(tensors, parts, strict=True):
            length = memoryview(part).nbytes
            if length != spec.tensor_bytes(tensor):
                raise ExpertBytesError(
                    f"{tensor.role} of {tensor.shape} in {spec.dtype} has {spec.tensor_bytes(tensor)} bytes, not {length}"
                )
            self.weights[tensor.role] = _view(part, tensor.dtype).view(tensor.shape)
        self.matrices = _cut(spec, _stored(spec, self.weights))
        self.packed = False
        self._writable = not any(memoryview(part).readonly for part in parts)
        self._native: ExpertStruct | bool | None = False

    @property
    def native(self) -> ExpertStruct | None:
        """Where its matrices lie, for the native kernels; None when torch has to compute it. Found at the first use, which
        may read all of it."""
        if isinstance(self._native, bool):
            self._native = expert_struct(self)
        return self._native

    def pack(self) -> bool:
        """Puts the weights into the order in which this processor multiplies them best, in place, if it has one for them and their
        memory may be written. Whoever calls is the only one that looks at the expert and at its bytes, which are not the canonical
        ones from then on; what it computes stays the same but for the order of sums.

        Returns:
            Whether they are in that order now.

        Raises:
            MemoryError: when there is none to do it with; then the expert is of no use any more.
        """
        if not self.packed and self._writable and panels.wanted(self.spec):
            stored, biases = _stored(self.spec, self.weights), _biases(self.weights)
            # Whatever ends this half way leaves an expert that nobody can compute with.
            self.matrices, self.weights, self._native = {}, {}, None
            self.matrices = _cut(self.spec, {role: matrix.pack() for role, matrix in stored.items()})
            self.weights, self.packed, self._native = biases, True, False
        return self.packed

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


def stored_matrix(spec: ExpertSpec, weights: Mapping[str, torch.Tensor], role: str) -> Matrix:
    """A matrix of a layout that stores it row by row, as one, by the role that the layout has for it."""
    values, *rest = (weights[tensor.role] for tensor in matrix_tensors(spec.format, role, 0, 0))
    scales, minima = (*rest, None, None)[:2]
    return Matrix(spec.format, values, scales, minima)


def _biases(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {role: part for role, part in weights.items() if role.endswith("_bias")}


def _stored(spec: ExpertSpec, weights: Mapping[str, torch.Tensor]) -> dict[str, Matrix]:
    """The matrices as they are stored, by the layout's roles; none in the layouts that store them column by column."""
    match spec.layout:
        case Layout.SEPARATE:
            roles: tuple[str, ...] = ("gate", "up", "down")
        case Layout.UNGATED:
            roles = ("up", "down")
        case Layout.FUSED | Layout.INTERLEAVED_ROWS_BIASED:
            roles = ("gate_up", "down")
        case _:
            roles = ()
    return {role: stored_matrix(spec, weights, role) for role in roles}


def _cut(spec: ExpertSpec, stored: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Gate, up and down out of the matrices as they are stored."""
    both = stored.get("gate_up")
    if both is None:
        return dict(stored)
    gate, up = slice(0, spec.intermediate), slice(spec.intermediate, None)
    if spec.layout is Layout.INTERLEAVED_ROWS_BIASED:
        gate, up = slice(0, None, 2), slice(1, None, 2)
    return {"gate": both.take(gate), "up": both.take(up), "down": stored["down"]}


def _view(buffer: Buffer, dtype: torch.dtype) -> torch.Tensor:
    array = np.frombuffer(memoryview(buffer), dtype=np.uint8)
    if array.ctypes.data % dtype.itemsize:
        # Elements that lie across their natural boundaries are slow at best: numbers of odd sizes before them do that.
        array = array.copy()
    if array.flags.writeable:
        return torch.frombuffer(array, dtype=dtype)
    # torch warns of read-only memory, which a mapped file should be; it is told of the address instead. The attribute
    # keeps the mapping alive for as long as torch holds the ctypes object.
    memory = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    memory.owner = array  # type: ignore[attr-defined]
    return torch.frombuffer(memory, dtype=dtype)
