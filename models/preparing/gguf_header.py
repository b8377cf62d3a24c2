"""The header of a GGUF file: its metadata, and where its tensors lie.

Guarantees: every length is checked against the file before it is followed, so a lying header costs neither memory nor
time; a table that was read points into the file. Text arrays (a tokenizer's vocabulary) are stepped over, not kept.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ..safetensors_header import DOWNLOAD_AGAIN, CheckpointError, DamagedFileError, TruncatedFileError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
KEPT_ARRAY = 1024
"""Longer arrays are stepped over."""

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file.

    Attributes:
        name: Its name in the file.
        kind: How its numbers are stored.
        shape: Its dimensions, row-major: reversed from the file.
        offset: Its first byte, counted from the start of the file.
        length: How many bytes.
    """

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Values by key; arrays longer than `KEPT_ARRAY` and arrays of text are missing.
        tensors: Every tensor by its name.
    """

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads the header of a GGUF file.

    Raises:
        TruncatedFileError: the file ends before its header or its tensors do.
        DamagedFileError: it is no GGUF file, or contradicts itself.
        CheckpointError: its version or a tensor's type is not known.
    """
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise DamagedFileError(
                f"{path} is neither a checkpoint folder nor a GGUF file",
                advice="give a checkpoint folder, a .gguf file, or `default`",
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Parser(path, data).parse()
            except struct.error as error:
                raise TruncatedFileError(
                    f"{path} is truncated: it ends within its header", advice=DOWNLOAD_AGAIN
                ) from error


class _Parser:
    """Reads a mapped file front to back; `struct.error` means that the file ended."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._position = len(MAGIC)

    def parse(self) -> GgufHeader:
        version = self._number("I")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self._path} is GGUF of version {version}, which cannot be read",
                advice="use a little-endian file of version 2 or 3",
            )
        tensor_count, field_count = self._number("Q"), self._number("Q")
        metadata = {}
        for _ in range(field_count):
            key = self._text()
            value = self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        rows = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self._damaged(f"an alignment of {alignment}")
        start = -(-self._position // alignment) * alignment
        tensors = {}
        for name, kind, shape, offset in rows:
            block, block_bytes = GGML_QUANT_SIZES[kind]
            if name in tensors or shape[-1] % block:
                raise self._damaged(f"a tensor {name} that is there twice or does not fill its blocks")
            length = math.prod(shape) // block * block_bytes
            tensors[name] = GgufTensor(name, kind, shape, start + offset, length)
        end = max((tensor.offset + tensor.length for tensor in tensors.values()), default=start)
        if end > len(self._data):
            raise TruncatedFileError(
                f"{self._path} is truncated: {end - len(self._data)} of {end} bytes are missing",
                advice=DOWNLOAD_AGAIN,
            )
        return GgufHeader(metadata, tensors)

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._data, self._position)
        self._position += struct.calcsize("<" + code)
        return value

    def _text(self) -> str:
        length = self._number("Q")
        self._step(length)
        try:
            return self._data[self._position - length : self._position].decode()
        except UnicodeDecodeError as error:
            raise self._damaged("text that is no UTF-8") from error

    def _step(self, count: int) -> None:
        if count > len(self._data) - self._position:
            raise struct.error("the file ends here")
        self._position += count

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise self._damaged(f"a value of unknown kind {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            for _ in range(count):
                self._step(self._number("Q"))
            return None
        if inner not in _SCALARS:
            raise self._damaged(f"an array of kind {inner}")
        if count <= KEPT_ARRAY:
            return [self._number(_SCALARS[inner]) for _ in range(count)]
        self._step(count * struct.calcsize("<" + _SCALARS[inner]))
        return None

    def _tensor(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        name = self._text()
        dimensions = self._number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise self._damaged(f"a tensor {name} of {dimensions} dimensions")
        shape = tuple(reversed([int(self._number("Q")) for _ in range(dimensions)]))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in GGMLQuantizationType.__members__.values() or math.prod(shape) == 0:
            raise CheckpointError(
                f"{self._path} stores {name} in a way that is not known (type {kind})",
                advice="use another quantization of the model, such as Q8_0",
            )
        return name, GGMLQuantizationType(kind), shape, offset

    def _damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self._path} has {what} in its header", advice=DOWNLOAD_AGAIN)
