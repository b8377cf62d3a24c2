"""Tensors to and from the wire.

Guarantees: `decode_tensor` believes nothing that a peer states: dtype, rank, each dimension, size, cap, stated length and
the data's real length are checked, in this order and each with its own error, before anything is allocated. Neither
direction changes a bit of any value; NaN, infinities and negative zero pass as they are.

Wire order is little-endian and so is every machine that torch is built for here; others are refused at import.
"""

from __future__ import annotations

import math
import sys
from typing import Final

import numpy
import torch
from torch.utils.dlpack import from_dlpack

from ..errors import WireError
from .folkmoot.v1 import tensor_pb2

if sys.byteorder != "little":
    raise ImportError("folkmoot needs a little-endian machine: tensors cross the wire as they lie in memory")

_WIRE_DTYPES: Final[dict[torch.dtype, tensor_pb2.DType.ValueType]] = {
    torch.float32: tensor_pb2.DTYPE_FLOAT32,
    torch.bfloat16: tensor_pb2.DTYPE_BFLOAT16,
    torch.float16: tensor_pb2.DTYPE_FLOAT16,
    torch.int32: tensor_pb2.DTYPE_INT32,
}
_TORCH_DTYPES: Final[dict[int, torch.dtype]] = {wire: dtype for dtype, wire in _WIRE_DTYPES.items()}

_MAX_REACH: Final = 2**63 - 1


class TensorError(WireError):
    """A tensor on the wire is not what it must be."""


class TensorDtypeError(TensorError):
    """Its dtype is not known, or not the one that belongs here."""


class TensorRankError(TensorError):
    """It has too many or too few dimensions."""


class TensorShapeError(TensorError):
    """A dimension is not what it must be."""


class TensorTooLargeError(TensorError):
    """Its shape asks for more bytes than the cap allows."""


class TensorLengthError(TensorError):
    """The length that it states does not follow from its shape."""


class TensorDataError(TensorError):
    """Its data are not as long as stated."""


def wire_dtype(dtype: torch.dtype) -> tensor_pb2.DType.ValueType:
    """The wire's number for a dtype.

    Raises:
        TensorDtypeError: when the wire has none.
    """
    wire = _WIRE_DTYPES.get(dtype)
    if wire is None:
        raise TensorDtypeError(f"a tensor of {dtype} cannot cross the wire")
    return wire


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes, row-major, as they lie in memory: not copied when the tensor is contiguous.

    The view keeps the memory alive, and sees later writes to the tensor.
    """
    # Few calls, for each costs microseconds where others have used the caches meanwhile: views only where NumPy lacks the type.
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    elements = tensor.numpy().data
    return elements.cast("B") if elements.nbytes else memoryview(b"")


def encode_tensor(tensor: torch.Tensor, data: memoryview | None = None) -> tensor_pb2.Tensor:
    """The tensor as a message; any rank, empty ones too.

    Args:
        tensor: What to send.
        data: Its `raw_bytes`, from whoever has them already.

    Raises:
        TensorDtypeError: when its dtype cannot cross the wire.
    """
    if data is None:
        data = raw_bytes(tensor)
    return tensor_pb2.Tensor(
        dtype=wire_dtype(tensor.dtype), shape=tensor.shape, length=data.nbytes, data=data.tobytes()
    )


def decode_tensor(
    message: tensor_pb2.Tensor,
    *,
    dtype: torch.dtype | None,
    shape: tuple[int | None, ...],
    max_bytes: int,
    what: str,
) -> torch.Tensor:
    """The tensor that a message holds. It shares memory with nothing but this call's copy of the message's data.

    Args:
        message: From a peer; nothing about it is believed.
        dtype: What it must be; None takes any that the wire knows.
        shape: What it must be; None takes any length of that dimension.
        max_bytes: The most bytes that it may have.
        what: What the peer meant to send, for the error.

    Raises:
        TensorDtypeError, TensorRankError, TensorShapeError, TensorTooLargeError, TensorLengthError, TensorDataError:
            all are TensorError.
    """
    found = _TORCH_DTYPES.get(message.dtype)
    if found is None or (dtype is not None and found != dtype):
        wanted = "a known dtype" if dtype is None else str(dtype)
        raise TensorDtypeError(f"{what}: want {wanted}, got {found or f'number {message.dtype}'}")
    if len(message.shape) != len(shape):
        raise TensorRankError(f"{what}: want {len(shape)} dimensions, got {len(message.shape)}")
    sizes = tuple(message.shape)
    if any(want is not None and want != size for want, size in zip(shape, sizes, strict=True)):
        raise TensorShapeError(f"{what}: want {_spell(shape)}, got {_spell(sizes)}")
    length = math.prod(sizes) * found.itemsize
    # Empty dimensions count as one in the strides, which overflow in torch even when there is nothing to hold.
    if length > max_bytes or math.prod(max(size, 1) for size in sizes) * found.itemsize > _MAX_REACH:
        raise TensorTooLargeError(f"{what}: {_spell(sizes)} of {found} is over the cap of {max_bytes} bytes")
    if message.length != length:
        raise TensorLengthError(
            f"{what}: {_spell(sizes)} of {found} has {length} bytes, not {message.length}"
        )
    data = message.data
    if len(data) != length:
        raise TensorDataError(f"{what}: {length} bytes were stated, {len(data)} came")
    if not length:
        return torch.empty(sizes, dtype=found)
    return from_dlpack(numpy.frombuffer(data, numpy.uint8)).view(found).view(sizes)


def _spell(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
