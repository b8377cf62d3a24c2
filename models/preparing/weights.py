"""Whatever weights can be read from, row by row, in the type wanted."""

from __future__ import annotations

from typing import Protocol

import torch

from ...kernels.formats import DTYPES
from ..checkpoint import Checkpoint
from ..safetensors_header import WEIGHT_TYPES, CheckpointError


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
        if location is None or location.dtype not in WEIGHT_TYPES:
            raise CheckpointError(
                f"{self._checkpoint.folder} lacks the tensor {name}",
                advice="download the model's weights again",
            )
        return location.shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Reads rows `start` to `stop` of a tensor, and nothing else.

        Raises:
            CheckpointError: the file ended before the rows did.
        """
        shape = self.shape(name)
        location = self._checkpoint.tensors[name]
        published = torch.empty((stop - start, *shape[1:]), dtype=DTYPES[WEIGHT_TYPES[location.dtype]])
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
        return published.to(self._dtype)
