"""Explanations: what an honest node may have answered, given what stands between its expert's products.

Guarantees: everything that the arithmetic profile lets a node round before its last product, and nothing else, is tried:
what was opened as it is, or rounded to the model's type, and the inner activation of either as it is, or rounded. A node
that rounds gate and up opens them exactly all the same when it is asked to: the coordinator rounds them itself, so what is
left of an honest answer is the rounding of the answer, whichever way of these the node computed. For each row the way is taken
that leaves least, expert by expert, for a node may compute one expert otherwise than the next. Where what was opened explains all
rows as it is, nearer than rounding the answers would leave them, nothing else is tried.

Letters: n audited rows, m rows of one expert, I intermediate size, k projections, w ways to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from .expert_arithmetic import Doubles, ExpertForm, Floats, Indices, activate

_PASSES: Final = 2
"""How often each expert's way is looked at again, once those of the others have been taken."""
_NEAR: Final = 1 / 4
"""Of the largest error of one rounding to the model's type. A row of which nothing was rounded is off by far less, one that was rounded
before its last product by three eighths, about; now and then the estimate by a few projections is smaller. What is left then is within
what limits allow for the rounding of the answer, and no less than the other ways would leave."""
_BFLOAT16_BITS: Final = 8
_FLOAT16_BITS: Final = 11


def rounded(values: Floats, significand_bits: int) -> Doubles:
    """Numbers as the type with so many bits has them: to nearest, ties to even; those of float32 and wider as they are."""
    if significand_bits > _FLOAT16_BITS:
        return np.asarray(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if significand_bits == _FLOAT16_BITS:
            return np.asarray(values, np.float16).astype(np.float64)
        single = np.ascontiguousarray(values, np.float32)
        bits, dropped = single.view(np.uint32), 24 - _BFLOAT16_BITS
        even = (bits + np.uint32((1 << dropped - 1) - 1) + (bits >> dropped & 1)) >> dropped << dropped
        # A carry out of a number that is none would make one of it.
        return np.where(np.isfinite(single), even.view(np.float32), single).astype(np.float64)


def roundings(form: ExpertForm, gate: Floats | None, up: Floats, inner: Doubles) -> Doubles:
    """What may have stood between an expert's products instead of `inner` [m, I], which follows from gate and up as they are, where
    the model's type is narrower than float32: [w, m, I]; w is 1 or 3."""
    bits = form.significand_bits
    gates, ups = (None if gate is None else rounded(gate, bits)), rounded(up, bits)
    if not (np.array_equal(ups, up) and (gate is None or gates is None or np.array_equal(gates, gate))):
        other = activate(form, gates, ups)
        return np.stack([other, rounded(inner, bits), rounded(other, bits)])
    return rounded(inner, bits)[None]


def is_plain(form: ExpertForm, left: Doubles) -> bool:
    """Whether outputs follow from what was opened as it is, by what is left of each row, relative: [n, k]. Then there is nothing to
    explain."""
    if form.significand_bits > _FLOAT16_BITS:
        return True
    error = np.sqrt(np.mean(np.square(left), axis=1))
    return bool(np.all(error <= _NEAR * 2.0**-form.significand_bits))


def explain(signed: Doubles, answers: Sequence[tuple[Indices, Doubles]]) -> Doubles:
    """What follows from an opening and comes nearest to what was signed, each expert's way of rounding being its own.

    Args:
        signed: [n, k], projections of the output.
        answers: For each expert, the rows that went to it, none twice, and the projections of what it may have added to
            each: [w, m, k].

    Returns:
        [n, k]
    """
    most = max((len(ways) for _, ways in answers), default=1)
    every = [(rows, ways[np.arange(most) % len(ways)]) for rows, ways in answers]
    together = np.zeros((most, *signed.shape))  # [w, n, k]
    for rows, ways in every:
        together[:, rows] += ways
    nearest = _nearest(signed, together)
    found = together[nearest, np.arange(len(signed))]
    if len(every) == 1:
        return found
    taken = [nearest[rows] for rows, _ in every]
    for _ in range(_PASSES):
        for number, (rows, ways) in enumerate(every):
            others = found[rows] - ways[taken[number], np.arange(len(rows))]  # [m, k]
            taken[number] = _nearest(signed[rows], others + ways)
            found[rows] = others + ways[taken[number], np.arange(len(rows))]
    return found


def _nearest(signed: Doubles, ways: Doubles) -> Indices:
    """For each row [n, k] the way [w, n, k] that leaves least; the first where none leaves a number."""
    left = np.square(signed - ways).sum(axis=2)
    return np.asarray(np.argmin(np.where(np.isfinite(left), left, np.inf), axis=0))
