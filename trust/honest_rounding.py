"""How far honest rounding takes a row from the truth, row by row.

Guarantees: pure, and computed from the truth alone, so nothing that an accused node said moves it. The profile allows
gate, up, inner activation and output one rounding each to the model's type. A rounding error is uniform within half a unit in
the last place; what each one does to the output follows from the weights, and independent errors add in squares. Rows
differ: where few neurons carry a row, or their answers nearly cancel, the same roundings weigh several times more
than they do on average.

The square of a row's error is a quadratic form of the errors with covariance C: its mean is tr C, its variance at
most 2 tr C^2 (that of Gaussian errors), and it is taken for a gamma distribution (Wilson and Hilferty, 1931). No
neuron's three roundings reach three times their deviation, so neither does a row whose neurons answer at right
angles. tr C^2 is estimated by Hutchinson's method (1990).

Letters: m rows of one expert, H hidden size, I intermediate size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

import numpy as np

from .expert_arithmetic import Doubles, ExpertForm, ExpertWeights, activate

_PROBES: Final = 16
_FURTHEST: Final = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class RoundingSpread:
    """What honest rounding does to the squared L2 error of rows.

    Attributes:
        mean, variance: [m] of the squared error.
    """

    mean: Doubles = field(repr=False)
    variance: Doubles = field(repr=False)

    def reach(self, rate: float) -> Doubles:
        """The error that honest rounding exceeds at this rate, for each row: [m]."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ninth = self.variance / (9 * np.square(self.mean))
            cube = 1 - ninth + NormalDist().inv_cdf(1 - rate) * np.sqrt(ninth)
            squares = self.mean * np.minimum(np.maximum(cube, 0.0) ** 3, _FURTHEST**2)
        return np.asarray(np.sqrt(np.where(np.isfinite(squares), squares, 0.0)))


def rounding_deviation(values: Doubles, significand_bits: int) -> Doubles:
    """The standard deviation of rounding each number to so many bits."""
    _, exponents = np.frexp(values)
    return np.asarray(np.where(values == 0, 0.0, np.ldexp(1 / math.sqrt(12), exponents - significand_bits)))


def rounding_spread(
    form: ExpertForm, weights: ExpertWeights, gate: Doubles | None, up: Doubles, answer: Doubles
) -> RoundingSpread:
    """What honest rounding does to one expert's answers.

    Args:
        form, weights: The expert.
        gate, up: [m, I], its exact first products.
        answer: [m, H], its exact answers.
    """
    bits, inner = form.significand_bits, activate(form, gate, up)
    squares = np.square(rounding_deviation(inner, bits))  # [m, I]
    squares += np.square(activate(form, gate, up + rounding_deviation(up, bits)) - inner)
    if gate is not None:
        squares += np.square(activate(form, gate + rounding_deviation(gate, bits), up) - inner)
    last = np.square(rounding_deviation(answer, bits))  # [m, H]
    down = np.asarray(weights.down, np.float64)
    mean = squares @ np.sum(np.square(down), axis=0) + np.sum(last, axis=1)
    # Bits of a Philox stream are the same everywhere: a verdict must not depend on who computes it.
    coins = np.random.Generator(np.random.Philox(0)).integers(0, 2, (_PROBES, len(down)))
    traces = np.zeros(len(answer))
    for signs in 2.0 * coins - 1:
        traces += np.sum(np.square((squares * (signs @ down)) @ down.T + last * signs), axis=1)
    return RoundingSpread(mean, 2 * traces / _PROBES)
