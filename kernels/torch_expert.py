"""One expert through torch: the path that runs everywhere, in every format, layout and activation.

Guarantees: sums of products are float32 whatever the weights' format. Float weights are multiplied in the wider of the rows'
and the weights' type, gate, up, their product and the output each rounded at most once to it. Quantized weights are
dequantized to float32, as their format defines, and nothing at all is rounded to less.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .activation import activate
from .expert import Expert
from .formats import Layout
from .quantize import dequantize


def expert_forward(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    """One expert on its rows, ungated: [n, H] in, [n, H] out in the type that was computed in."""
    if expert.spec.layout.row_major:
        return _row_major(expert, rows)
    return _column_major(expert, rows)


def _row_major(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    spec, matrices = expert.spec, expert.matrices
    gate_bias, up_bias, down_bias = None, None, None
    if spec.layout is Layout.INTERLEAVED_ROWS_BIASED:
        both = expert.weights["gate_up_bias"]
        gate_bias, up_bias, down_bias = both[0::2], both[1::2], expert.weights["down_bias"]
    stored = next(iter(matrices.values())).values.dtype
    common = torch.float32 if spec.format.quantized else torch.promote_types(rows.dtype, stored)
    rows = rows.to(common)

    def product(role: str, inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        matrix = matrices[role]
        weights = dequantize(matrix) if spec.format.quantized else matrix.values.to(common)
        return F.linear(inputs, weights, None if bias is None else bias.to(common))

    gate = product("gate", rows, gate_bias) if "gate" in matrices else None  # [n, I]
    inner = activate(spec, gate, product("up", rows, up_bias))  # [n, I]
    return product("down", inner.to(common), down_bias)


def _column_major(expert: Expert, rows: torch.Tensor) -> torch.Tensor:
    spec = expert.spec
    common = torch.promote_types(rows.dtype, expert.weights["down"].dtype)
    weights = {role: tensor.to(common) for role, tensor in expert.weights.items()}
    rows = rows.to(common)
    if spec.layout is Layout.FUSED_TRANSPOSED:
        gate, up = (rows @ weights["gate_up"]).chunk(2, dim=-1)  # [n, I] each
        return activate(spec, gate, up).to(common) @ weights["down"]
    both = torch.addmm(weights["gate_up_bias"], rows, weights["gate_up"])  # [n, 2I]
    inner = activate(spec, both[:, 0::2], both[:, 1::2]).to(common)
    return torch.addmm(weights["down_bias"], inner, weights["down"])
