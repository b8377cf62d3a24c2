"""Up to how many rows the native kernels are faster than torch: the one place where that is decided.

Guarantees: the answer depends on nothing but the weights' format, the rows' type and the processor, so it never changes while a
process lives. The numbers are measured by `folkmoot-bench kernels`.
"""

from __future__ import annotations

import functools

import torch

from .formats import DTYPES, WeightFormat
from .native_library import load

ANY = 1 << 62
"""There is no number of rows from which torch is faster."""
FLOAT32 = 24
NARROW = 12
"""Weights and rows of the same type of 16 bits."""
BFLOAT16_BY_TILES, FLOAT16_BESIDE_TILES = 96, 6
"""The same on a processor with matrix tiles (AMX): the kernels use them for bfloat16, torch for both."""
MIXED = 64
"""Float weights of another type than the rows: torch has to convert them first."""
QUANTIZED: dict[WeightFormat, int] = {
    WeightFormat.INT8: 128,
    WeightFormat.INT8_CHANNEL: 128,
    WeightFormat.FP8_BLOCK: 192,
    WeightFormat.INT4: ANY,
    WeightFormat.MXFP4: ANY,
}
"""Torch has to dequantize these first; beside tiles it is never faster."""


@functools.cache
def most_rows(weights: WeightFormat, rows: torch.dtype) -> int:
    """Rows that share one reading of the weights up to which the native kernels should compute."""
    library = load()
    tiles = library is not None and library.folkmoot_isa() == b"amx"
    if weights.quantized:
        return ANY if tiles and rows == torch.bfloat16 else QUANTIZED[weights]
    if DTYPES[weights] != rows:
        return MIXED
    if rows == torch.float32:
        return FLOAT32
    if not tiles:
        return NARROW
    return BFLOAT16_BY_TILES if rows == torch.bfloat16 else FLOAT16_BESIDE_TILES
