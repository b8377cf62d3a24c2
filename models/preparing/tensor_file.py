"""Writes a safetensors file tensor by tensor, in the order announced.

Guarantees: no more than what `write` is given is in memory; after a `with` block that ended well, the file is on the disk
with exactly the tensors announced.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ...kernels.formats import DTYPES
from ..safetensors_header import BITS, LENGTH_BYTES, WEIGHT_TYPES, TensorLocation

ALIGNMENT = 64
"""Tensor bytes begin at a multiple of this, so that mapped weights are aligned for vector loads."""

FORMAT_TYPES = {name: code for code, name in WEIGHT_TYPES.items()}
"""From the names of weight types to those of the safetensors format."""


def raw_view(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, row-major; a copy is made only when it is not contiguous."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


class TensorFile:
    """A safetensors file that is being written.

    Attributes:
        locations: Where each announced tensor lies, or will.
    """

    def __init__(self, path: Path, announced: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        """Announces the tensors.

        Args:
            path: The file; what is there is replaced.
            announced: Shape by name, in the order in which the tensors will be written.
            dtype: Their type, a key of `kernels.formats.DTYPES`.
        """
        self._path = path
        self._dtype = DTYPES[dtype]
        code = FORMAT_TYPES[dtype]
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        places, end = {}, 0
        for name, shape in announced.items():
            begin, end = end, end + math.prod(shape) * BITS[code] // 8
            header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
            places[name] = (begin, end)
        encoded = json.dumps(header, separators=(",", ":")).encode()
        start = -(-(LENGTH_BYTES + len(encoded)) // ALIGNMENT) * ALIGNMENT
        self._head = (start - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + encoded.ljust(
            start - LENGTH_BYTES
        )
        self.locations = {
            name: TensorLocation(path.name, start + begin, end - begin, code, tuple(announced[name]))
            for name, (begin, end) in places.items()
        }
        self.size = start + end
        self._position = 0

    def __enter__(self) -> Self:
        self._stream = self._path.open("wb", buffering=0)
        self._put(memoryview(self._head))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if error is None:
                if self._position != self.size:
                    raise ValueError(f"{self._path} has {self._position} of the {self.size} bytes announced")
                os.fsync(self._stream.fileno())

    def write(self, name: str, tensor: torch.Tensor) -> memoryview:
        """Writes a tensor, or the next rows of it, and returns the bytes written.

        Raises:
            ValueError: the tensor is of another type, or its turn has not come or has passed.
        """
        place, view = self.locations[name], raw_view(tensor)
        if tensor.dtype != self._dtype:
            raise ValueError(f"{name} is {tensor.dtype}, announced was {self._dtype}")
        if not place.offset <= self._position <= self._position + len(view) <= place.offset + place.length:
            raise ValueError(f"it is not the turn of {name}, or it is longer than announced")
        self._put(view)
        return view

    def _put(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._stream.write(view[done:])
        self._position += done
