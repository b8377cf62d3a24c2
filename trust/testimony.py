"""What two unrelated nodes' answers to the same rows say of a third's: for when the weights are not at hand.

Guarantees: pure; says something only where both agree, in what they opened and in what they answered, expert by expert, and where all
that was said is neither so small nor so large that machines flush or overflow it; a row is called wrong only if it is further from both
than two honest answers can be from one another even where it rounds twice as badly as the profile says, and right only if it is as near
to both as two honest answers usually are; in between nothing is said. As in a recomputation, a row's error is measured against no less
than its parts. What a recomputation sees besides is not seen here: two witnesses of one make agree about a row that was made to cancel in
an expert, and a node of another make would be convicted over it, by a verdict that the weights do not confirm.

Letters: n rows, P pairs of row and expert, H hidden size, I intermediate size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from .expert_arithmetic import Doubles, Floats, sizes
from .float_noise import LARGEST, LARGEST_FLOAT16
from .recompute import Tolerance

APART_AGREE: Final = 2.0
"""Times what a row may differ from the truth: each of two honest answers may be that far from it."""
APART_WRONG: Final = 2 * APART_AGREE
"""Times the same. How badly a row rounds follows from the weights, which are not at hand: there must be room for rows that round
much worse than others. Between this and what is right are weights of 8 bits and nothing coarser."""
APART_RIGHT: Final = math.sqrt(2)
"""Times the same: independent errors add in squares."""


SMALLEST_HEARD: Final = 1e-12
SMALLEST_HEARD_FLOAT16: Final = 1e-3
"""What stands between an expert's products must be larger somewhere in a row: far enough from what is flushed, or coarse."""


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """What one side said.

    Attributes:
        answers: [P, H], each expert's answer to its row, without the gate.
        gate: [P, I] as opened; None where experts have no gate.
        up: [P, I] as opened.
    """

    answers: Floats = field(repr=False)
    gate: Floats | None = field(repr=False)
    up: Floats = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Testimony:
    """What follows.

    Attributes:
        agree: Whether both sides said the same, of rows of which something can be said.
        apart: How far they are apart at most, relative.
        errors: [n] how far each row is from the nearer side.
        allowed: What it may be.
        right: Whether every row is near both sides.
    """

    agree: bool
    apart: float
    errors: Doubles = field(repr=False)
    allowed: float
    right: bool

    @property
    def wrong(self) -> bool:
        """Whether some row is wrong beyond doubt."""
        return self.agree and bool((self.errors > self.allowed).any())


def weigh_testimony(
    signed: Floats,
    rows: npt.NDArray[np.int64],
    gates: Floats,
    sides: tuple[Statement, Statement],
    tolerance: Tolerance,
    *,
    float16: bool = False,
) -> Testimony:
    """Weighs what two sides said of some rows against what a node signed.

    Args:
        signed: [n, H].
        rows: [P] which row each pair is of.
        gates: [P].
        sides: What was said.
        tolerance: What an honest node may differ by from the truth.
        float16: Whether honest nodes may round to float16, whose range is narrow.
    """
    first, second = sides
    apart = [_apart(first.answers, second.answers), _apart(first.up, second.up)]
    if first.gate is not None and second.gate is not None:
        apart.append(_apart(first.gate, second.gate))
    furthest = max(apart)
    distances, near = [], True
    for side in sides:
        weighted = np.asarray(side.answers, np.float64) * np.asarray(gates, np.float64)[:, None]  # [P, H]
        total, squares = np.zeros(signed.shape), np.zeros(len(signed))
        np.add.at(total, rows, weighted)
        np.add.at(squares, rows, np.square(sizes([weighted])))
        scale = np.maximum(sizes([total]), np.sqrt(squares))
        distance = _relative(sizes([np.asarray(signed, np.float64) - total]), scale)
        distances.append(distance)
        near = near and bool((distance <= APART_RIGHT * tolerance.row).all())
    heard = float(np.max(np.abs(signed), initial=0.0)) <= LARGEST and all(
        _heard(side, float16) for side in sides
    )
    agree = heard and furthest <= APART_AGREE * tolerance.row
    errors = np.minimum(*distances)
    return Testimony(agree, furthest, errors, APART_WRONG * tolerance.row, agree and near)


def _heard(side: Statement, float16: bool) -> bool:
    """Whether what one side said is of sizes that all machines hold."""
    up = np.asarray(side.up, np.float64)
    between = np.maximum(up, 0.0) ** 2 if side.gate is None else np.maximum(side.gate, 0.0) * np.abs(up)
    said = [up, side.answers, between, *([] if side.gate is None else [side.gate])]
    most = max(float(np.max(np.abs(part), initial=0.0)) for part in said)
    least = float(np.min(np.max(between, axis=1)))
    if float16:
        return most <= LARGEST_FLOAT16 and least >= SMALLEST_HEARD_FLOAT16
    return most <= LARGEST and least >= SMALLEST_HEARD


def _apart(first: Floats, second: Floats) -> float:
    """The largest relative difference of two vectors of the same row."""
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    scale = np.maximum(sizes([one]), sizes([other]))
    return float(np.max(_relative(sizes([one - other]), scale), initial=0.0))


def _relative(differences: Doubles, scale: Doubles) -> Doubles:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(differences == 0, 0.0, differences / scale)
    return np.asarray(np.where(np.isnan(relative), np.inf, relative))
