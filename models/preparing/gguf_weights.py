"""The weights of a GGUF file under the names of transformers, dequantized row by row.

Guarantees: a dequantized value is what `gguf.quants.dequantize` gives, in the row order of transformers; beside the rows
asked for, no more than `CHUNK_BYTES` of float32 is in memory at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ...kernels.formats import DTYPES
from ..safetensors_header import CheckpointError
from .gguf_header import GgufHeader, GgufTensor
from .gguf_names import ROPE_FACTORS, published_name, row_order

CHUNK_BYTES = 32 << 20
_PLAIN = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


@dataclass(frozen=True)
class _Source:
    """Where a published tensor is: a GGUF tensor, or one expert of it."""

    tensor: GgufTensor
    shape: tuple[int, ...]
    first_row: int
    order: torch.Tensor | None


class GgufWeights:
    """The weights of one GGUF file, converted to one type.

    Attributes:
        names: Every published tensor, in the order of the file.
    """

    def __init__(self, path: Path, header: GgufHeader, config: Any, dtype: str) -> None:
        """Maps the file and gives every tensor its published name.

        Raises:
            CheckpointError: a tensor is not supported, or its type cannot be dequantized.
        """
        self._dtype = DTYPES[dtype]
        self._data = np.memmap(path, mode="r")
        architecture = header.metadata["general.architecture"]
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._sources: dict[str, _Source] = {}
        for tensor in header.tensors.values():
            if tensor.name == ROPE_FACTORS:
                continue
            _check_kind(tensor)
            name = published_name(architecture, tensor.name)
            if "*" in name:
                self._add_experts(name, tensor)
                continue
            shape = tensor.shape
            if name.endswith("shared_expert_gate.weight") and len(shape) == 1:
                shape = (1, *shape)
            if len(shape) > 2:
                raise _unexpected(tensor)
            order = row_order(architecture, tensor.name, shape[0], heads, kv_heads)
            self._sources[name] = _Source(tensor, shape, 0, order)
        self.names = tuple(self._sources)

    def _add_experts(self, name: str, tensor: GgufTensor) -> None:
        if len(tensor.shape) != 3:
            raise _unexpected(tensor)
        experts, rows, columns = tensor.shape
        for expert in range(experts):
            source = _Source(tensor, (rows, columns), expert * rows, None)
            self._sources[name.replace("*", str(expert))] = source

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's dimensions.

        Raises:
            CheckpointError: there is no such tensor.
        """
        if name not in self._sources:
            raise CheckpointError(f"this GGUF file lacks {name}", advice="download it again, or use another")
        return self._sources[name].shape

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Dequantizes rows `start` to `stop` of a tensor; of a vector, the elements.

        Raises:
            CheckpointError: there is no such tensor.
        """
        shape = self.shape(name)
        source = self._sources[name]
        result = torch.empty((stop - start, *shape[1:]), dtype=self._dtype)
        step = max(1, CHUNK_BYTES // (4 * math.prod(shape[1:])))
        stored = self._stored(source)
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            wanted = slice(begin, end) if source.order is None else source.order[begin:end].numpy()
            chunk = dequantize(stored[wanted], source.tensor.kind)
            result[begin - start : end - start] = torch.from_numpy(np.array(chunk)).view(-1, *shape[1:])
        return result

    def _stored(self, source: _Source) -> np.ndarray:
        """A view of the stored rows of a published tensor."""
        tensor = source.tensor
        data = self._data[tensor.offset : tensor.offset + tensor.length]
        vector = len(source.shape) == 1
        if tensor.kind in _PLAIN:
            data = data.view(_PLAIN[tensor.kind])
        if vector:
            return data.reshape(source.shape[0], -1)
        block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
        columns = source.shape[1] if tensor.kind in _PLAIN else source.shape[1] // block * block_bytes
        return data.reshape(-1, columns)[source.first_row : source.first_row + source.shape[0]]


def _unexpected(tensor: GgufTensor) -> CheckpointError:
    return CheckpointError(
        f"{tensor.name} in this GGUF file has the unexpected shape {list(tensor.shape)}",
        advice="download the file again, or use another",
    )


def _check_kind(tensor: GgufTensor) -> None:
    block, block_bytes = GGML_QUANT_SIZES[tensor.kind]
    plain = tensor.kind in _PLAIN
    probe = np.zeros((1, block if plain else block_bytes), dtype=_PLAIN.get(tensor.kind, np.uint8))
    try:
        dequantize(probe, tensor.kind)
    except NotImplementedError as error:
        raise CheckpointError(
            f"{tensor.name} is stored as {tensor.kind.name}, which cannot be read",
            advice="use another quantization of the model, such as Q8_0",
        ) from error
    if len(tensor.shape) == 1 and not plain:
        raise CheckpointError(
            f"{tensor.name} is a vector stored as {tensor.kind.name}, which cannot be read",
            advice="use another quantization of the model, such as Q8_0",
        )
