"""The element types of safetensors files, as torch names them."""

from __future__ import annotations

import torch

CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""The safetensors format's name of each type that weights and their scales are stored in."""

DTYPES_BY_CODE = {code: dtype for dtype, code in CODES.items()}
"""The other way round."""
