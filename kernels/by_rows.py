"""An expert's matrices row by row, whatever the layout that stores them.

Guarantees: views, never copies; a matrix that is stored column by column comes out as a view of other strides.

Letters: H hidden size, I intermediate size.
"""

from __future__ import annotations

import torch

from .expert import Expert
from .formats import ExpertSpec, Layout
from .matrix import Matrix


def biased(spec: ExpertSpec) -> bool:
    """Whether experts of a form have biases."""
    return spec.layout in (Layout.INTERLEAVED_BIASED, Layout.INTERLEAVED_ROWS_BIASED)


def by_rows(expert: Expert) -> dict[str, tuple[Matrix, torch.Tensor | None]]:
    """`gate` [I, H] (if there is one), `up` [I, H] and `down` [H, I], each with its bias, if it has one."""
    spec, weights, matrices = expert.spec, expert.weights, expert.matrices
    if not spec.layout.row_major:
        both, half = weights["gate_up"].T, spec.intermediate
        halves = (
            (both[:half], both[half:]) if spec.layout is Layout.FUSED_TRANSPOSED else (both[0::2], both[1::2])
        )
        views = (*halves, weights["down"].T)
        matrices = {
            role: Matrix(spec.format, view) for role, view in zip(("gate", "up", "down"), views, strict=True)
        }
    biases: dict[str, torch.Tensor] = {}
    if biased(spec):
        both = weights["gate_up_bias"]
        biases = {"gate": both[0::2], "up": both[1::2], "down": weights["down_bias"]}
    return {role: (matrix, biases.get(role)) for role, matrix in matrices.items()}
