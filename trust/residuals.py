"""What an opening leaves unexplained: projections of what a node opened and signed, minus what the sketches say.

Guarantees: everything is computed in float64 from the arrays given; each residual is divided by the norm of the
vector that it is about, so the root of its mean square over projections estimates that vector's relative L2 error,
whatever the scale of the activations. Of an output, what follows from the roundings that the profile allows before the last product
is taken off (`explanations`). What is not finite leaves an infinite residual. Residuals tell about the secret
projections: they never leave the coordinator, and print nothing of themselves.

Letters: n audited rows, m rows of one expert, P pairs of row and expert, H hidden size, I intermediate size, k
projections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from ..errors import TrustError
from .expert_arithmetic import Doubles, ExpertForm, ExpertRows, Floats, Indices, activate, sizes
from .explanations import explain, is_plain, roundings
from .projections import Projections
from .sketch import ExpertSketch, SketchError

SMALLEST_BIAS: Final = 0.001
"""A bias that nobody looks for: it is a residual risk."""
_TINY: Final = 1e-300


class OpeningShapeError(TrustError):
    """An opening has other shapes than the rows that were asked for: it opens nothing."""


class Stage(StrEnum):
    """What is checked for itself."""

    OPENED = "opened"
    """What was opened, gate and up side by side: a cheat at either shows, and one at both shows twice."""
    OUTPUT = "output"
    """What was signed, against what follows from what was opened."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenedExpert:
    """What a node opened of one expert.

    Attributes:
        pairs: The rows, counted within the audited rows, and their gates: the coordinator's own, never the node's.
        gate: [m, I] as opened; None where the form has no gate.
        up: [m, I] as opened.
    """

    pairs: ExpertRows
    gate: Floats | None
    up: Floats


@dataclass(frozen=True, slots=True, eq=False)
class StageResiduals:
    """One stage's residuals.

    Attributes:
        errors: [P, 2k] for what was opened ([P, k] without a gate), [n, k] for the output; signed, relative.
        expected: The same shape: what the sketches say, relative to the same norms.
    """

    errors: Doubles = field(repr=False)
    expected: Doubles = field(repr=False)

    @property
    def by_row(self) -> Doubles:
        """The estimated relative error of each row: the root of its mean square over projections."""
        return np.asarray(np.sqrt(np.mean(np.square(self.errors), axis=1)))

    @property
    def lengthening(self) -> Doubles:
        """What each row's errors have in common with what was expected: as large as one projection's error where errors point
        anywhere, and larger where a row is longer or shorter than it should be, by the more the longer what was expected is.
        """
        along, length = self._along()
        return np.asarray(along / np.maximum(length, _TINY))

    def scaling(self) -> tuple[float, float]:
        """By which factor all rows together seem too long, less 1, and the length of what that was seen by."""
        along, length = self._along()
        total = float(np.square(length).sum())
        return float(along.sum()) / max(total, _TINY), math.sqrt(total)

    def _along(self) -> tuple[Doubles, Doubles]:
        """For each row its errors times what was expected, infinite where an error is, and the length of the latter."""
        length = np.sqrt(np.square(self.expected).sum(axis=1))
        finite = np.asarray(np.isfinite(self.errors).all(axis=1))
        along = (np.where(finite[:, None], self.errors, 0.0) * self.expected).sum(axis=1)
        return np.where(finite, along, np.inf), length


Residuals = Mapping[Stage, StageResiduals]


def residuals(
    form: ExpertForm,
    projections: Projections,
    sketches: Mapping[int, ExpertSketch],
    rows: Floats,
    output: Floats,
    opened: Sequence[OpenedExpert],
) -> dict[Stage, StageResiduals]:
    """Compares an opening, and the output that its node signed, with the sketches.

    Args:
        form: Of the layer's experts.
        projections: Of the layer.
        sketches: By expert; one for each expert opened.
        rows: [n, H], the audited rows of the frame's input.
        output: [n, H], what the node signed for them: the sum over its experts of gate times answer.
        opened: Every expert that these rows went to on this node.

    Raises:
        OpeningShapeError: when a shape does not fit; then the node has not opened what it was asked for.
        SketchError: when a sketch is missing or was made with other projections.
    """
    inputs, signed = np.asarray(rows, np.float64), np.asarray(output, np.float64)
    _check_shapes(form, projections, sketches, inputs, signed, opened)
    inner, outer = projections.inner.astype(np.float64), projections.outer.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        # All experts at once where that can be, for each call costs as much as a row.
        ups = np.concatenate([one.up for one in opened])  # [P, I]
        gates = np.concatenate([one.gate for one in opened if one.gate is not None]) if form.gated else None
        between = activate(form, gates, ups)  # [P, I]
        answers = _answers(opened, between[None], sketches)
        known, terms = np.zeros((2, len(inputs), projections.count))  # [n, k]
        for rows_of_one, answer in answers:
            known[rows_of_one] += answer[0]
            terms[rows_of_one] += np.square(answer[0])
        found = signed @ outer.T
        scale = np.maximum(sizes([signed]), np.sqrt(np.mean(terms, axis=1)))
        left = _divided(found, known, scale)
        if not is_plain(form, left.errors):
            others = _answers(opened, roundings(form, gates, ups, between), sketches)
            ways = [
                (of_rows, np.concatenate([plain, further]))
                for (of_rows, plain), (_, further) in zip(answers, others, strict=True)
            ]
            left = _divided(found, explain(found, ways), scale)
        return {Stage.OPENED: _opened(opened, gates, ups, sketches, inner, inputs), Stage.OUTPUT: left}


def _answers(
    opened: Sequence[OpenedExpert], between: Doubles, sketches: Mapping[int, ExpertSketch]
) -> list[tuple[Indices, Doubles]]:
    """What each expert adds to its rows, projected, where this stands between its products, [w, P, I]: [w, m, k]."""
    answers, start = [], 0
    for one in opened:
        end, sketch = start + len(one.up), sketches[one.pairs.expert]
        answer = between[:, start:end] @ sketch.down.T.astype(np.float64) + sketch.down_bias
        answers.append((one.pairs.rows, answer * np.asarray(one.pairs.gates, np.float64)[:, None]))
        start = end
    return answers


def _opened(
    opened: Sequence[OpenedExpert],
    gates: Floats | None,
    ups: Floats,
    sketches: Mapping[int, ExpertSketch],
    inner: Doubles,
    inputs: Doubles,
) -> StageResiduals:
    """What all that was opened leaves, gates and ups [P, I] in the order of experts: [P, 2k], or [P, k] without gates."""
    known_ups: list[Doubles] = []
    known_gates: list[Doubles] = []
    for one in opened:
        sketch, rows = sketches[one.pairs.expert], inputs[one.pairs.rows]  # [m, H]
        known_ups.append(rows @ sketch.up.T.astype(np.float64) + sketch.up_bias)  # [m, k]
        if sketch.gate is not None:
            known_gates.append(rows @ sketch.gate.T.astype(np.float64) + sketch.gate_bias)  # [m, k]
    up = _relative(np.asarray(ups, np.float64), inner, np.concatenate(known_ups))
    if gates is None:
        return up
    gate = _relative(np.asarray(gates, np.float64), inner, np.concatenate(known_gates))
    return StageResiduals(
        np.concatenate([gate.errors, up.errors], axis=1), np.concatenate([gate.expected, up.expected], axis=1)
    )


def _check_shapes(
    form: ExpertForm,
    projections: Projections,
    sketches: Mapping[int, ExpertSketch],
    rows: Doubles,
    output: Doubles,
    opened: Sequence[OpenedExpert],
) -> None:
    hidden, intermediate = projections.outer.shape[1], projections.inner.shape[1]
    if rows.shape != output.shape or rows.ndim != 2 or rows.shape[1] != hidden or not len(rows):
        raise OpeningShapeError(
            f"rows {rows.shape} and output {output.shape} do not fit hidden size {hidden}"
        )
    if not opened:
        raise OpeningShapeError("nothing was opened")
    for one in opened:
        sketch = sketches.get(one.pairs.expert)
        if sketch is None or sketch.projections != projections.identity:
            raise SketchError(f"expert {one.pairs.expert} has no sketch with these projections")
        shape = (len(one.pairs.rows), intermediate)
        if (one.gate is not None) != form.gated or (sketch.gate is not None) != form.gated:
            raise OpeningShapeError("the opening has a gate where there is none, or none where there is one")
        if one.up.shape != shape or (one.gate is not None and one.gate.shape != shape):
            raise OpeningShapeError(
                f"the opening of expert {one.pairs.expert} is not {shape[0]} x {shape[1]}"
            )
        if one.pairs.gates.shape != (shape[0],) or not shape[0]:
            raise OpeningShapeError(f"expert {one.pairs.expert} has no gates for its rows")
    named = np.concatenate([one.pairs.rows for one in opened])
    if named.min() < 0 or named.max() >= len(rows):
        raise OpeningShapeError(f"an expert names row {named.min()} or {named.max()} of {len(rows)}")


def _relative(opened: Doubles, vectors: Doubles, known: Doubles) -> StageResiduals:
    return _divided(opened @ vectors.T, known, sizes([opened]))


def _divided(found: Doubles, known: Doubles, scale: Doubles) -> StageResiduals:
    """A vector of zeros is right only where zeros are known: then nothing is left, otherwise an infinite residual."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        errors = np.where(found == known, 0.0, (found - known) / scale[:, None])
        expected = np.where(known == 0, 0.0, known / scale[:, None])
    broken = ~(np.isfinite(errors) & np.isfinite(expected) & np.isfinite(scale)[:, None])
    return StageResiduals(np.where(broken, np.inf, errors), np.where(broken, 0.0, expected))
