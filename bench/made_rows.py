"""Rows that somebody makes so that an honest node's answer is far from the truth.

Guarantees: they follow from the expert's weights and fixed seeds; they are of float64, and whoever uses them rounds them to the model's type.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch

from ..coordinator.audit.honest_openings import heavy_rows
from ..trust.expert_arithmetic import Doubles, ExpertWeights

OF_EACH: Final = 2

Rows = Callable[[ExpertWeights], Doubles]


def usual(hidden: int, count: int = OF_EACH) -> Doubles:
    """Rows as they are in use."""
    return np.asarray(heavy_rows(count, hidden, 9, torch.float64).numpy())


def of_sizes(*sizes: float) -> Rows:
    """Rows in use, made larger or smaller by each of the factors."""
    return lambda weights: np.concatenate([usual(weights.up.shape[1]) * size for size in sizes])


def cancelling(*names: str) -> Rows:
    """Rows of which nearly everything cancels in some products, as far as it can: from a little more than in rows in use to all there is."""

    def rows(weights: ExpertWeights) -> Doubles:
        parts = [getattr(weights, name) for name in names if getattr(weights, name) is not None]
        matrix = np.concatenate([np.asarray(part, np.float64) for part in parts or [weights.up]])
        directions = np.linalg.svd(matrix)[2]
        missing = directions[min(len(matrix), len(directions) - OF_EACH) :]
        left_out = np.random.default_rng(3).normal(size=(OF_EACH, len(missing))) @ missing
        base = usual(matrix.shape[1])
        return np.concatenate([left_out * 30, *(base + left_out * 10.0**power for power in range(8))])

    return rows


def outliers(weights: ExpertWeights) -> Doubles:
    """Rows whose groups of 32 inputs each have one that drowns the others."""
    parts = []
    for size in (30.0, 1e3, 1e5):
        rows = usual(weights.up.shape[1])
        rows[:, ::32] *= size
        parts.append(rows)
    return np.concatenate(parts)


ATTACKS: Final[Mapping[str, Rows]] = {
    "tiny": of_sizes(1e-4, 1e-7, 1e-10, 1e-14, 1e-17, 1e-18, 1e-19, 1e-20, 1e-22, 1e-25, 1e-30, 1e-38, 1e-40),
    "huge": of_sizes(1e3, 1e6, 1e10, 1e12, 1e15, 1e17, 1e18, 1e19, 1e20, 1e25, 1e30, 1e36),
    "cancelling in up": cancelling("up"),
    "cancelling in gate": cancelling("gate"),
    "cancelling in both": cancelling("gate", "up"),
    "outliers": outliers,
}
"""What was tried against honest nodes."""
