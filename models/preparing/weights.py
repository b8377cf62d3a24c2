"""Whatever weights can be read from, row by row, in the type wanted."""

from __future__ import annotations

from typing import Protocol

import torch

from ...kernels.formats import BLOCK, DTYPES, WeightFormat, matrix_tensors
from ...kernels.matrix import Matrix
from ...kernels.quantize import dequantize
from ..checkpoint import Checkpoint
from ..published_forms import FP8, SCALE_INV
from ..safetensors_header import CheckpointError
from ..source_table import TRUNK_TYPES
from ..stored_types import DTYPES_BY_CODE


class Weights(Protocol):
    """A model's tensors by the names that transformers gives them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's dimensions. Raises CheckpointError when there is no such tensor."""
        ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor's leading dimension, in memory of their own."""
        ...


class CheckpointWeights:
    """The weights of a safetensors checkpoint, converted to one type."""

    def __init__(self, checkpoint: Checkpoint, dtype: str) -> None:
        self._checkpoint = checkpoint
        self._dtype = DTYPES[dtype]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's dimensions.

        Raises:
            CheckpointError: there is no such tensor, or it is of no float type.
        """
        location = self._checkpoint.tensors.get(name)
        if location is None or location.dtype not in TRUNK_TYPES:
            raise CheckpointError(
                f"{self._checkpoint.folder} lacks the tensor {name}",
                advice="download the model's weights again",
            )
        return location.shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads rows `start` to `stop` of a tensor, and nothing else; of one in fp8, its scales too.

        Raises:
            CheckpointError: the file ended before the rows did, or scales are missing or of another shape.
        """
        self.shape(name)
        if self._checkpoint.tensors[name].dtype != FP8:
            return self._stored(name, start, stop).to(self._dtype)
        scales = self._scales(name)
        first = start // BLOCK * BLOCK
        values = self._stored(name, first, stop)
        blocks = Matrix(WeightFormat.FP8_BLOCK, values, scales[first // BLOCK : -(-stop // BLOCK)])
        return dequantize(blocks)[start - first :].to(self._dtype)

    def _scales(self, name: str) -> torch.Tensor:
        scales = name + SCALE_INV
        rows, columns = self.shape(name)
        wanted = matrix_tensors(WeightFormat.FP8_BLOCK, "", rows, columns)[1].shape
        if self.shape(scales) != wanted:
            raise CheckpointError(
                f"{scales} in {self._checkpoint.folder} is {list(self.shape(scales))}, not {list(wanted)}",
                advice="download the model's weights again",
            )
        return self._stored(scales, 0, wanted[0]).float()

    def _stored(self, name: str, start: int, stop: int) -> torch.Tensor:
        location = self._checkpoint.tensors[name]
        shape = location.shape
        published = torch.empty((stop - start, *shape[1:]), dtype=DTYPES_BY_CODE[location.dtype])
        view = memoryview(published.view(-1).view(torch.uint8).numpy().data)
        path = self._checkpoint.folder / location.file
        with path.open("rb", buffering=0) as stream:
            stream.seek(location.offset + start * (location.length // shape[0]))
            done = 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise CheckpointError(
                        f"{path} became shorter while it was read",
                        advice="prepare again when nothing else writes to it",
                    )
                done += count
        return published
