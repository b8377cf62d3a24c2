"""Checkpoints in the quantized forms that their publishers chose, each with a float twin that transformers dequantized.

Guarantees: names, types and shapes are those of DeepSeek-V3 (fp8) and GPT-OSS (mxfp4); the twin's weights come from the
published bytes through functions of transformers alone, in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from folkmoot.tests.support.tiny_models import tiny_checkpoint

WEIGHTS = "model.safetensors"
E4M3_MOST = 448.0
FP8_SETTINGS = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
MXFP4_SETTINGS = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
}
KEPT = ("embed_tokens", "lm_head", "mlp.gate.", "norm")
"""What DeepSeek leaves in bfloat16; here in float32, so that answers can be compared closely."""

Tensors = dict[str, torch.Tensor]


def fp8_pair(family: str, folder: Path, **overrides: Any) -> tuple[Path, Path]:
    """A checkpoint whose linear layers are published in fp8, and its float twin."""
    return _pair(family, folder, FP8_SETTINGS, _to_fp8, overrides)


def mxfp4_pair(folder: Path, **overrides: Any) -> tuple[Path, Path]:
    """A GPT-OSS checkpoint whose experts are published in mxfp4, and its float twin."""
    return _pair("gpt_oss", folder, MXFP4_SETTINGS, _to_mxfp4, {"intermediate_size": 96, **overrides})


def _pair(
    family: str,
    folder: Path,
    settings: dict[str, Any],
    convert: Callable[[Tensors], tuple[Tensors, Tensors]],
    overrides: dict[str, Any],
) -> tuple[Path, Path]:
    twin = tiny_checkpoint(family, folder / "twin", **overrides)
    published = shutil.copytree(twin, folder / "published")
    quantized, plain = convert(load_file(twin / WEIGHTS))
    save_file(quantized, published / WEIGHTS, {"format": "pt"})
    save_file(plain, twin / WEIGHTS, {"format": "pt"})
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return published, twin


def _to_fp8(tensors: Tensors) -> tuple[Tensors, Tensors]:
    quantized, plain = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if weight.dim() != 2 or any(part in name for part in KEPT):
            continue
        values, scales = fp8_blocks(weight)
        quantized[name], quantized[name + "_scale_inv"] = values, scales
        plain[name] = _dequantize_fp8_weight(values, scales, [128, 128], torch.float32)
    return quantized, plain


def fp8_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix [N, K] as float8_e4m3fn, and the float32 scales [N / 128, K / 128] of its blocks."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % 128, 0, -rows % 128))
    blocks = padded.view(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
    scales = blocks.abs().amax(dim=(1, 3)) / E4M3_MOST
    values = (blocks / scales[:, None, :, None]).view_as(padded)[:rows, :columns]
    return values.contiguous().to(torch.float8_e4m3fn), scales


def _to_mxfp4(tensors: Tensors) -> tuple[Tensors, Tensors]:
    quantized, plain = {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, weight in tensors.items():
        if name.endswith("_proj_bias"):
            quantized[name] = weight.to(torch.bfloat16)
            plain[name] = quantized[name].float()
        elif ".experts." in name:
            experts, inner, outer = weight.shape  # [E, K, N]: transformers holds it transposed
            shape = (experts, outer, inner // 32)
            blocks = torch.randint(0, 256, (*shape, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(121, 126, shape, generator=generator, dtype=torch.uint8)
            quantized[name + "_blocks"], quantized[name + "_scales"] = blocks, scales
            plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        else:
            quantized[name] = plain[name] = weight
    return quantized, plain
