"""Tensors as statements name them: type, shape and bytes, and the numbers that these mean.

Guarantees: a `StatedTensor` exists only with as many bytes as its type and shape ask for; its digest is that of the
statements; its numbers are exact in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from .expert_arithmetic import Doubles
from .statements import StatementError, tensor_digest


class StatedType(IntEnum):
    """The wire's element types that activations may have, by the wire's numbers."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return 4 if self is StatedType.FLOAT32 else 2


@dataclass(frozen=True, slots=True)
class StatedTensor:
    """A tensor of activations.

    Attributes:
        dtype: Its elements' type.
        shape: Its dimensions.
        data: Its bytes, row-major, little-endian.
    """

    dtype: StatedType
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.data) != math.prod(self.shape) * self.dtype.size:
            raise StatementError(f"a tensor {self.shape} of {self.dtype.name} has not {len(self.data)} bytes")

    def digest(self) -> bytes:
        """Its `tensor_digest`."""
        return tensor_digest(self.dtype, self.shape, self.data)

    def values(self) -> Doubles:
        """Its numbers, exactly."""
        # A signalling NaN among the bytes is a number like another here: whoever compares finds it.
        with np.errstate(invalid="ignore"):
            return np.asarray(self._singles(), np.float64).reshape(self.shape)

    def _singles(self) -> npt.NDArray[np.float32]:
        match self.dtype:
            case StatedType.BFLOAT16:
                return (np.frombuffer(self.data, "<u2").astype(np.uint32) << 16).view(np.float32)
            case StatedType.FLOAT16:
                return np.frombuffer(self.data, "<f2").astype(np.float32)
            case StatedType.FLOAT32:
                return np.frombuffer(self.data, "<f4").astype(np.float32)
