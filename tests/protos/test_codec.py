"""Proven: every tensor comes back bit for bit, through protobuf's own bytes too; and what a peer states is checked, each
kind of lie with its own error, before a byte is allocated."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import WireError
from folkmoot.protos import codec
from folkmoot.protos.codec import (
    TensorDataError,
    TensorDtypeError,
    TensorError,
    TensorLengthError,
    TensorRankError,
    TensorShapeError,
    TensorTooLargeError,
    decode_tensor,
    encode_tensor,
    raw_bytes,
    wire_dtype,
)
from folkmoot.protos.folkmoot.v1 import tensor_pb2
from folkmoot.protos.limits import MAX_MESSAGE_BYTES

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int32]
SIZES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
CAP = 1 << 20


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...], data: bytes) -> torch.Tensor:
    """A tensor of exactly these bytes, whatever they mean: NaN payloads and infinities included."""
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def decode(message: tensor_pb2.Tensor, **changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {"dtype": torch.float32, "shape": (2, 3), "max_bytes": CAP, "what": "rows"}
    return decode_tensor(message, **(arguments | changes))


def honest(**changes: Any) -> tensor_pb2.Tensor:
    """[2, 3] float32, with some fields replaced by lies."""
    fields: dict[str, Any] = {
        "dtype": tensor_pb2.DTYPE_FLOAT32,
        "shape": [2, 3],
        "length": 24,
        "data": struct.pack("<6f", *range(6)),
    }
    return tensor_pb2.Tensor(**(fields | changes))


@given(st.data(), st.sampled_from(DTYPES), SIZES)
def test_every_tensor_comes_back_bit_for_bit(
    data: st.DataObject, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    length = math.prod(shape) * dtype.itemsize
    content = data.draw(st.binary(min_size=length, max_size=length))
    sent = tensor_pb2.Tensor.FromString(encode_tensor(tensor_of(dtype, shape, content)).SerializeToString())
    got = decode_tensor(sent, dtype=dtype, shape=(None,) * len(shape), max_bytes=CAP, what="rows")
    assert (got.dtype, tuple(got.shape)) == (dtype, shape)
    assert bytes(raw_bytes(got)) == content == sent.data
    assert sent.length == length


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 7), (3, 0, 2), ()])
def test_empty_and_scalar_tensors_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=dtype)
    got = decode_tensor(encode_tensor(tensor), dtype=dtype, shape=shape, max_bytes=8, what="rows")
    assert got.shape == tensor.shape and torch.equal(got, tensor)


def test_the_wire_is_row_major_and_little_endian() -> None:
    message = encode_tensor(torch.tensor([[1, 2], [3, -4]], dtype=torch.int32))
    assert message.data == struct.pack("<4i", 1, 2, 3, -4)
    assert list(message.shape) == [2, 2]
    assert encode_tensor(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)).data == b"\x80\x3f\x00\xc0"


def test_what_is_not_contiguous_is_sent_in_its_own_order() -> None:
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    for view in (tensor.t(), tensor[:, ::2], tensor.expand(4, 2, 3), tensor[1:]):
        shape = tuple(view.shape)
        assert torch.equal(decode(encode_tensor(view), shape=shape), view)


def test_a_tensor_that_wants_gradients_is_sent_as_its_values() -> None:
    tensor = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(decode(encode_tensor(tensor)), torch.ones(2, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_bytes_are_the_tensors_own_memory(dtype: torch.dtype) -> None:
    tensor = torch.zeros(4, 2, dtype=dtype)
    view = raw_bytes(tensor)
    assert view.nbytes == tensor.nbytes
    tensor[3, 1] = 1
    assert bytes(view[-dtype.itemsize :]) != bytes(dtype.itemsize)


def test_raw_bytes_keep_the_memory_alive() -> None:
    assert bytes(raw_bytes(torch.full((1000,), 7, dtype=torch.int32))) == struct.pack("<i", 7) * 1000


def test_a_decoded_tensor_may_be_written_to_without_touching_the_message() -> None:
    message = honest()
    before = message.SerializeToString()
    decode(message).fill_(-1)
    assert message.SerializeToString() == before
    assert torch.equal(decode(message).flatten(), torch.arange(6.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.complex64])
def test_a_dtype_that_the_wire_lacks_is_not_sent(dtype: torch.dtype) -> None:
    with pytest.raises(TensorDtypeError):
        wire_dtype(dtype)
    with pytest.raises(TensorDtypeError):
        encode_tensor(torch.zeros(2, dtype=dtype))


def test_every_dtype_of_the_wire_is_known() -> None:
    known = {wire_dtype(dtype) for dtype in DTYPES}
    assert known == set(tensor_pb2.DType.values()) - {tensor_pb2.DTYPE_UNSPECIFIED}


MILLION = 1_000_000
LIES: list[tuple[type[TensorError], dict[str, Any], dict[str, Any]]] = [
    (TensorDtypeError, {"dtype": tensor_pb2.DTYPE_UNSPECIFIED}, {}),
    (TensorDtypeError, {"dtype": tensor_pb2.DTYPE_UNSPECIFIED}, {"dtype": None}),
    (TensorDtypeError, {"dtype": 99}, {"dtype": None}),
    (TensorDtypeError, {"dtype": -1}, {"dtype": None}),
    (TensorDtypeError, {"dtype": tensor_pb2.DTYPE_INT32}, {}),
    (TensorRankError, {"shape": []}, {}),
    (TensorRankError, {"shape": [6]}, {}),
    (TensorRankError, {"shape": [2, 3, 1]}, {}),
    (TensorRankError, {"shape": [1] * MILLION}, {}),
    (TensorShapeError, {"shape": [3, 2]}, {}),
    (TensorShapeError, {"shape": [0, 3], "length": 0, "data": b""}, {}),
    (TensorShapeError, {"shape": [2, 2**32 - 1]}, {}),
    (TensorShapeError, {"shape": [1, 6]}, {"shape": (None, 3)}),
    (TensorTooLargeError, {}, {"max_bytes": 23}),
    (TensorTooLargeError, {"shape": [2**30, 1], "length": 2**32}, {"shape": (None, None)}),
    (TensorTooLargeError, {"shape": [2**32 - 1] * 2, "length": 2**64 - 1}, {"shape": (None, None)}),
    # 2**64 elements and 2**66 bytes: both are zero to whoever multiplies in 64 bits.
    (TensorTooLargeError, {"shape": [2**31, 2**31, 4], "length": 0, "data": b""}, {"shape": (None,) * 3}),
    (TensorTooLargeError, {"shape": [2**31, 2**31, 4], "length": 24}, {"shape": (None,) * 3}),
    (TensorTooLargeError, {"shape": [0, 2**32 - 1, 2**32 - 1], "length": 0, "data": b""}, {"shape": (None,) * 3}),
    (TensorLengthError, {"length": 0}, {}),
    (TensorLengthError, {"length": 23}, {}),
    (TensorLengthError, {"length": 4 << 30}, {}),
    (TensorLengthError, {"length": 2**64 - 24}, {}),
    (TensorLengthError, {"length": 12, "data": bytes(12)}, {}),
    (TensorLengthError, {"shape": [0, 3]}, {"shape": (None, 3)}),
    (TensorDataError, {"data": b""}, {}),
    (TensorDataError, {"data": bytes(23)}, {}),
    (TensorDataError, {"data": bytes(25)}, {}),
    (TensorDataError, {"shape": [0, 3], "length": 0}, {"shape": (None, 3)}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "lies", "wants"), LIES, ids=lambda value: getattr(value, "__name__", None))
def test_each_lie_has_its_own_error_and_allocates_nothing(
    error: type[TensorError], lies: dict[str, Any], wants: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was made of a lie")

    monkeypatch.setattr(codec, "from_dlpack", allocate)
    monkeypatch.setattr(torch, "empty", allocate)
    message = honest(**lies)
    tracemalloc.start()
    try:
        with pytest.raises(error, match="^rows: ") as caught:
            decode(message, **wants)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(caught.value) is error and isinstance(caught.value, WireError)
    assert peak < 1 << 16
    assert len(str(caught.value)) < 200


def test_every_error_of_the_codec_has_a_lie_that_shows_it() -> None:
    assert {error for error, _, _ in LIES} == set(TensorError.__subclasses__())


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        message = tensor_pb2.Tensor.FromString(data)
    except DecodeError:
        return
    for shape in ((), (None,), (None, None), (2, 3)):
        try:
            got = decode(message, dtype=None, shape=shape)
        except TensorError:
            continue
        assert got.nbytes == message.length == len(message.data)


@given(
    st.integers(-1, 6),
    st.lists(st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1)), max_size=4),
    st.one_of(st.integers(0, 64), st.integers(0, 2**64 - 1)),
    st.binary(max_size=64),
)
def test_arbitrary_fields_raise_nothing_else(dtype: int, shape: list[int], length: int, data: bytes) -> None:
    message = tensor_pb2.Tensor(dtype=dtype, shape=shape, length=length, data=data)  # type: ignore[arg-type]
    try:
        got = decode(message, dtype=None, shape=(None,) * len(shape))
    except TensorError:
        return
    assert list(got.shape) == shape and got.nbytes == length == len(data)


def test_a_tensor_at_the_cap_passes_and_one_byte_more_does_not() -> None:
    message = honest()
    assert decode(message, max_bytes=24).nbytes == 24
    with pytest.raises(TensorTooLargeError):
        decode(message, max_bytes=23)
    assert MAX_MESSAGE_BYTES > CAP
