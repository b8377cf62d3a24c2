"""Under which names, and in which types, quantized weights are published.

Guarantees: knows exactly two published forms, which are read as they are: `fp8` with blocks of 128 x 128 (DeepSeek-V3: a
tensor of float8_e4m3fn, and its scales under the same name with `_scale_inv`), and `mxfp4` (GPT-OSS: `_blocks` and `_scales`
in place of the tensor). Everything else is a float tensor, or is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..kernels.formats import BLOCK, WeightFormat
from .safetensors_header import WEIGHT_TYPES, TensorLocation

FP8 = "F8_E4M3"
"""The safetensors format's name of float8_e4m3fn."""
BYTES = "U8"
SCALE_INV = "_scale_inv"
BLOCKS, SCALES = "_blocks", "_scales"
SUFFIXES = (SCALE_INV, BLOCKS, SCALES)
"""What may follow the name that a tensor would have in a float checkpoint."""
READ = "fp8 in blocks of 128 x 128 and mxfp4"
CONFIG_KEYS = ("quantization_config", "compression_config")
"""Where a configuration says that its weights are quantized."""


def readable_types(config: Mapping[str, Any]) -> frozenset[str] | None:
    """The element types, beside the float ones, that a checkpoint may have by its configuration.

    Returns:
        Names of the safetensors format; None when the configuration announces a form that is not read.
    """
    settings = next((config[key] for key in CONFIG_KEYS if config.get(key)), None)
    if settings is None:
        return frozenset()
    if not isinstance(settings, Mapping):
        return None
    match settings.get("quant_method"):
        case "fp8" if settings.get("weight_block_size") == [BLOCK, BLOCK]:
            return frozenset({FP8})
        case "mxfp4":
            return frozenset({BYTES})
        case _:
            return None


def published_format(tensors: Mapping[str, TensorLocation], name: str) -> WeightFormat | None:
    """The format in which a matrix is published, by the name that it has in a float checkpoint; None when it is not there
    or of a type that is not read."""
    location = tensors.get(name)
    if location is None:
        return WeightFormat.MXFP4 if name + BLOCKS in tensors else None
    if location.dtype == FP8:
        return WeightFormat.FP8_BLOCK
    found = WEIGHT_TYPES.get(location.dtype)
    return None if found is None else WeightFormat(found)


def stored_names(form: WeightFormat, name: str) -> tuple[str, ...]:
    """The tensors that a matrix is published as, in canonical order."""
    match form:
        case WeightFormat.FP8_BLOCK:
            return (name, name + SCALE_INV)
        case WeightFormat.MXFP4:
            return (name + BLOCKS, name + SCALES)
        case _:
            return (name,)
