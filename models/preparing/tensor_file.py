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

from ..safetensors_header import LENGTH_BYTES, TensorLocation
from ..stored_types import CODES

ALIGNMENT = 64
"""Tensor bytes begin at a multiple of this, so that mapped weights are aligned for vector loads."""


def raw_view(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes, row-major; a copy is made only when it is not contiguous."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


class TensorFile:
    """A safetensors file that is being written.

    Attributes:
        locations: Where each announced tensor lies, or will.
    """

    def __init__(self, path: Path, announced: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """Announces the tensors.

        Args:
            path: The file; what is there is replaced.
            announced: Type, one of `CODES`, and shape by name, in the order in which the tensors will be written.
        """
        self._path = path
        self._dtypes = {name: dtype for name, (dtype, _) in announced.items()}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        places, end = [], 0
        for name, (dtype, shape) in announced.items():
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            places.append((begin, end))
        encoded = json.dumps(header, separators=(",", ":")).encode()
        start = -(-(LENGTH_BYTES + len(encoded)) // ALIGNMENT) * ALIGNMENT
        self._head = (start - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + encoded.ljust(
            start - LENGTH_BYTES
        )
        self.locations = {
            name: TensorLocation(path.name, start + begin, end - begin, CODES[dtype], tuple(shape))
            for (name, (dtype, shape)), (begin, end) in zip(announced.items(), places, strict=True)
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
        if tensor.dtype != self._dtypes[name]:
            raise ValueError(f"{name} is {tensor.dtype}, announced was {self._dtypes[name]}")
        if not place.offset <= self._position <= self._position + len(view) <= place.offset + place.length:
            raise ValueError(f"it is not the turn of {name}, or it is longer than announced")
        self._put(view)
        return view

    def _put(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._stream.write(view[done:])
        self._position += done
