"""Experts with cheaper weights than the canonical ones.

Guarantees: a cheapened expert has the form, the sizes and the biases of the one it was made of; its matrices are cheaper in what
the function's name says, and kept in float32, so nothing else of its answers differs. Where the canonical weights are as cheap
already, nothing changes.

Letters: H hidden size, I intermediate size, N rows (outputs) and K columns (inputs) of a matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ...kernels.by_rows import biased, by_rows
from ...kernels.expert import Expert
from ...kernels.formats import GROUP, ExpertSpec, Layout, WeightFormat
from ...kernels.quantize import dequantize, quantize

Tensors = Mapping[str, torch.Tensor]
Cheapen = Callable[[Expert], Expert]

RANKS_KEPT = 10 / 11
NEURONS_LEFT_OUT = slice(0, None, 8)


def int8_channel(expert: Expert) -> Expert:
    """Each row of each matrix in int8 with one scale."""
    return _each_matrix(expert, lambda matrix: _requantized(matrix, WeightFormat.INT8_CHANNEL))


def int8_block(expert: Expert) -> Expert:
    """int8 with a scale for 32 inputs."""
    return _each_matrix(expert, lambda matrix: _requantized(matrix, WeightFormat.INT8))


def int4(expert: Expert) -> Expert:
    """int4 with a scale and a minimum for 32 inputs."""
    return _each_matrix(expert, lambda matrix: _requantized(matrix, WeightFormat.INT4))


def fp8(expert: Expert) -> Expert:
    """float8_e4m3fn with one scale a matrix."""
    return _each_matrix(expert, _fp8)


def low_rank(expert: Expert) -> Expert:
    """The largest `RANKS_KEPT` of each matrix's singular values."""
    return _each_matrix(expert, _low_rank)


def partial_neurons(expert: Expert) -> Expert:
    """One neuron in eight is not there: neither its inputs, nor its biases, nor its output."""
    matrices, biases = _parts(expert)
    for role in ("gate", "up"):
        for held in (matrices, biases):
            if role in held:
                held[role][NEURONS_LEFT_OUT] = 0
    matrices["down"][:, NEURONS_LEFT_OUT] = 0
    return _stored(expert.spec, matrices, biases)


def turned(expert: Expert) -> Expert:
    """Another expert's weights, as likely as these: the same ones in the opposite order."""
    matrices, biases = _parts(expert)
    flipped = {role: matrix.flip(0, 1) for role, matrix in matrices.items()}
    return _stored(expert.spec, flipped, {role: bias.flip(0) for role, bias in biases.items()})


def _each_matrix(expert: Expert, cheapen: Callable[[torch.Tensor], torch.Tensor]) -> Expert:
    matrices, biases = _parts(expert)
    return _stored(expert.spec, {role: cheapen(matrix) for role, matrix in matrices.items()}, biases)


def _parts(expert: Expert) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The matrices and the biases by role, float32, each a copy."""
    parts = by_rows(expert)
    biases = {
        role: bias.to(torch.float32, copy=True) for role, (_, bias) in parts.items() if bias is not None
    }
    matrices = {
        role: dequantize(matrix).clone(memory_format=torch.contiguous_format)
        for role, (matrix, _) in parts.items()
    }
    return matrices, biases


def _stored(spec: ExpertSpec, matrices: Tensors, biases: Tensors) -> Expert:
    """An expert in float32 of these matrices: `gate`, `up` [I, H] and `down` [H, I]."""
    tensors = dict(matrices)
    layout = Layout.SEPARATE if "gate" in matrices else Layout.UNGATED
    if biased(spec):
        layout = Layout.INTERLEAVED_ROWS_BIASED
        tensors = {
            "gate_up": torch.stack((matrices["gate"], matrices["up"]), 1).flatten(0, 1),
            "gate_up_bias": torch.stack((biases["gate"], biases["up"]), 1).flatten(),
            "down": matrices["down"],
            "down_bias": biases["down"],
        }
    form = dataclasses.replace(spec, dtype=WeightFormat.FLOAT32.value, layout=layout)
    return Expert(form, [tensors[part.role].contiguous().numpy().data for part in form.tensors()])


def _requantized(matrix: torch.Tensor, form: WeightFormat) -> torch.Tensor:
    columns = matrix.shape[1]
    return dequantize(quantize(F.pad(matrix, (0, -columns % GROUP)), form))[:, :columns]


def _fp8(matrix: torch.Tensor) -> torch.Tensor:
    scale = matrix.abs().max().clamp_min(1e-30) / torch.finfo(torch.float8_e4m3fn).max
    return (matrix / scale).to(torch.float8_e4m3fn).float() * scale


def _low_rank(matrix: torch.Tensor) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int(len(values) * RANKS_KEPT)
    return torch.matmul(left[:, :rank] * values[:rank], right[:rank])
