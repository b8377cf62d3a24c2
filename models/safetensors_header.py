"""Where the tensors of one safetensors file lie, read from its header alone.

Guarantees: nothing but the header is read, and no more than `MAX_HEADER_BYTES` of it; a header is believed only when its
tensors fill the file exactly, one after another, each as long as its shape and type say. So an offset that comes from here
points into the file.

The format is that of https://github.com/huggingface/safetensors#format: 8 bytes of length, JSON, tensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_HEADER_BYTES = 100 << 20
LENGTH_BYTES = 8

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "C64": 64,
    "I64": 64,
    "U64": 64,
    "I32": 32,
    "U32": 32,
    "I16": 16,
    "U16": 16,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
}
"""How many bits one element has, by the format's name of its type."""

WEIGHT_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The types that weights may have, and what they are called elsewhere in Folkmoot."""

DOWNLOAD_AGAIN = "delete it and download it again"


class CheckpointError(ModelError):
    """A checkpoint cannot be used as it is."""


class TruncatedFileError(CheckpointError):
    """A file ends before the tensors that it announces."""


class DamagedFileError(CheckpointError):
    """A file is not what its name says, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """Where one tensor's bytes lie.

    Attributes:
        file: Name of the file, relative to the checkpoint's folder.
        offset: First byte, counted from the start of the file.
        length: How many bytes.
        dtype: The format's name of the element type, such as BF16.
        shape: Its dimensions; elements are row-major.
    """

    file: str
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]


def read_header(folder: Path, file: str) -> dict[str, TensorLocation]:
    """Locates every tensor of `folder / file` by its name in the file.

    Raises:
        TruncatedFileError: the file is shorter than its header says; says by how much.
        DamagedFileError: the file is no safetensors file, or its header contradicts itself.
    """
    path = folder / file
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(LENGTH_BYTES)
        if prefix.startswith(b"version "):
            raise DamagedFileError(
                f"{path} is a Git LFS pointer, not the file itself", advice="run `git lfs pull` in its folder"
            )
        header_bytes = int.from_bytes(prefix, "little")
        if len(prefix) == LENGTH_BYTES and header_bytes > MAX_HEADER_BYTES:
            raise DamagedFileError(f"{path} is not a safetensors file", advice=DOWNLOAD_AGAIN)
        start = LENGTH_BYTES + header_bytes
        if size < start or len(prefix) < LENGTH_BYTES:
            missing = max(start - size, LENGTH_BYTES - len(prefix))
            raise TruncatedFileError(
                f"{path} is truncated: it ends within its header, at least {missing} bytes are missing",
                advice=DOWNLOAD_AGAIN,
            )
        data = stream.read(header_bytes)
    try:
        header = json.loads(data, object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise TypeError("the header is not an object")
        tensors = {
            name: _location(file, start, fields) for name, fields in header.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} has a header that cannot be read ({type(error).__name__}: {error})",
            advice=DOWNLOAD_AGAIN,
        ) from error
    _check_cover(path, size, start, tensors)
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name appears twice")
    return unique


def _location(file: str, start: int, fields: dict[str, Any]) -> TensorLocation:
    dtype, shape = fields["dtype"], fields["shape"]
    begin, end = fields["data_offsets"]
    if dtype not in BITS:
        raise ValueError(f"unknown type {dtype!r}")
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError("a shape or an offset is not a natural number")
    if 8 * (end - begin) != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"{dtype} {shape} does not have {end - begin} bytes")
    return TensorLocation(file, start + begin, end - begin, dtype, tuple(shape))


def _check_cover(path: Path, size: int, start: int, tensors: dict[str, TensorLocation]) -> None:
    end = start
    for location in sorted(tensors.values(), key=lambda location: (location.offset, location.length)):
        if location.offset != end:
            raise DamagedFileError(
                f"{path} has a header whose tensors overlap or leave gaps", advice=DOWNLOAD_AGAIN
            )
        end += location.length
    if end > size:
        raise TruncatedFileError(
            f"{path} is truncated: {end - size} of {end} bytes are missing", advice=DOWNLOAD_AGAIN
        )
    if end < size:
        raise DamagedFileError(
            f"{path} is {size - end} bytes longer than its header says", advice=DOWNLOAD_AGAIN
        )
