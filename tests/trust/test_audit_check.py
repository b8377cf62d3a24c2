"""Proven: residuals of every activation, with biases, gates and several experts, are nothing but rounding for an
honest node; what is not finite, does not fit or has no sketch is never passed; limits apply as they are stated."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from folkmoot.kernels.formats import Activation as KernelActivation
from folkmoot.tests.support.honest_samples import all_rows, honest_samples, measured
from folkmoot.tests.support.plain_experts import HONEST, Singles, answer, heavy_rows, random_expert, tight
from folkmoot.trust.audit_check import Passed, Suspicion, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.calibration import calibrate
from folkmoot.trust.expert_arithmetic import Activation, ExpertForm, ExpertRows, ExpertWeights
from folkmoot.trust.projections import derive_projections
from folkmoot.trust.residuals import (
    SMALLEST_BIAS,
    OpenedExpert,
    OpeningShapeError,
    Residuals,
    Stage,
    StageResiduals,
    residuals,
)
from folkmoot.trust.sketch import SketchError, sketch_expert
from folkmoot.trust.thresholds import MAX_ROWS, ROW_COUNTS, StageLimits, Thresholds, ThresholdsError

HIDDEN, INTERMEDIATE, ROWS = 96, 64, 6
PROJECTIONS = derive_projections(bytes(32), 1, b"m" * 32, 0, HIDDEN, INTERMEDIATE, 4)
SWIGLU = ExpertForm(Activation.SWIGLU)
GATES = (0.6, 0.3, 1.7)


def a_frame(form: ExpertForm) -> tuple[list[ExpertWeights], list[ExpertRows], Singles]:
    """Three experts; one has only some of the rows."""
    weights = [random_expert(form, HIDDEN, INTERMEDIATE, seed) for seed in range(3)]
    pairs = all_rows(ROWS, GATES)
    pairs[1] = ExpertRows(1, np.array([0, 3, 5]), np.array([0.2, 0.5, 0.9], np.float32))
    return weights, pairs, heavy_rows(ROWS, HIDDEN, 7)


def an_opening(form: ExpertForm, arithmetic: str = "float32") -> tuple[Singles, Singles, list[OpenedExpert]]:
    weights, pairs, rows = a_frame(form)
    return rows, *answer(form, weights, pairs, rows, HONEST[arithmetic])


def test_activations_have_the_names_that_manifests_have() -> None:
    assert [str(activation) for activation in Activation] == [str(known) for known in KernelActivation]


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize(("arithmetic", "most"), [("float32", 3e-6), ("bfloat16", 2e-2)])
def test_an_honest_opening_leaves_rounding_and_nothing_else(
    activation: Activation, arithmetic: str, most: float
) -> None:
    form = ExpertForm(activation, alpha=1.3, limit=0.4)
    weights, pairs, rows = a_frame(form)
    output, raw = answer(form, weights, pairs, rows, HONEST[arithmetic])
    for opened in (raw, tight(weights, pairs, rows)):
        found = measured(form, PROJECTIONS, weights, rows, output, opened)
        assert max(np.abs(part.errors).max() for part in found.values()) < most
        assert found[Stage.OUTPUT].errors.shape == (ROWS, 4)
        assert found[Stage.OPENED].errors.shape == (2 * ROWS + 3, 8 if form.gated else 4)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("expert", range(3))
def test_one_experts_share_left_out_shows(activation: Activation, expert: int) -> None:
    form = ExpertForm(activation)
    weights, pairs, rows = a_frame(form)
    _, opened = answer(form, weights, pairs, rows, HONEST["float32"])
    others = [n for n in range(3) if n != expert]
    false, _ = answer(form, [weights[n] for n in others], [pairs[n] for n in others], rows, HONEST["float32"])
    found = measured(form, PROJECTIONS, weights, rows, false, opened)
    assert found[Stage.OUTPUT].by_row[pairs[expert].rows].max() > 0.05


def test_the_estimated_error_is_the_relative_error() -> None:
    """Over many projections, the root of the mean square is the L2 error itself."""
    made = derive_projections(bytes(32), 1, b"m" * 32, 0, HIDDEN, INTERMEDIATE, 64)
    weights, pairs, rows = (
        [random_expert(SWIGLU, HIDDEN, INTERMEDIATE, 1)],
        all_rows(200),
        heavy_rows(200, HIDDEN, 2),
    )
    output, opened = answer(SWIGLU, weights, pairs, rows, HONEST["float32"])
    noise = np.random.default_rng(3).normal(size=output.shape)
    lengths = np.linalg.norm(output, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    found = measured(SWIGLU, made, weights, rows, output + 0.02 * noise * lengths, opened)
    assert abs(np.sqrt(np.mean(np.square(found[Stage.OUTPUT].by_row))) - 0.02) < 0.001


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
@pytest.mark.parametrize("where", ["output", "gate", "up"])
def test_what_is_not_finite_is_never_passed(value: float, where: str) -> None:
    rows, output, opened = an_opening(SWIGLU)
    wide, first = output.astype(np.float64), opened[0]
    assert first.gate is not None
    gate, up = first.gate.astype(np.float64), first.up.astype(np.float64)
    {"output": wide, "gate": gate, "up": up}[where][2, 5] = value
    changed = [replace(first, gate=gate, up=up), *opened[1:]]
    found = measured(SWIGLU, PROJECTIONS, a_frame(SWIGLU)[0], rows, wide, changed)
    assert isinstance(check_opening(found, some_thresholds(1e3), OpeningKind.RAW), Suspicion)


def test_zeros_are_right_only_where_zeros_are_due() -> None:
    weights, pairs = [random_expert(SWIGLU, HIDDEN, INTERMEDIATE, 1)], all_rows(2)
    nothing = np.zeros((2, HIDDEN), np.float32)
    output, opened = answer(SWIGLU, weights, pairs, nothing, HONEST["bfloat16"])
    found = measured(SWIGLU, PROJECTIONS, weights, nothing, output, opened)
    assert all((part.errors == 0).all() for part in found.values())
    found = measured(SWIGLU, PROJECTIONS, weights, heavy_rows(2, HIDDEN, 1), output, opened)
    assert np.isinf(found[Stage.OPENED].errors).all()


def broken(change: str) -> dict[str, Any]:
    rows, output, opened = an_opening(SWIGLU)
    first, pairs = opened[0], opened[0].pairs
    match change:
        case "no experts":
            opened = []
        case "no gate":
            opened[0] = replace(first, gate=None)
        case "narrow up":
            opened[0] = replace(first, up=first.up[:, 1:])
        case "fewer rows":
            opened[0] = replace(first, up=first.up[1:])
        case "gate of another shape":
            opened[0] = replace(first, gate=first.up[1:])
        case "rows beyond":
            opened[0] = replace(first, pairs=replace(pairs, rows=pairs.rows + 1))
        case "negative rows":
            opened[0] = replace(first, pairs=replace(pairs, rows=pairs.rows - 1))
        case "fewer gates":
            opened[0] = replace(first, pairs=replace(pairs, gates=pairs.gates[1:]))
        case "narrow output":
            output = output[:, 1:]
        case "one-dimensional":
            rows, output = rows[0], output[0]
    return {"rows": rows, "output": output, "opened": opened}


@pytest.mark.parametrize(
    "change",
    [
        "no experts",
        "no gate",
        "narrow up",
        "fewer rows",
        "gate of another shape",
        "rows beyond",
        "negative rows",
        "fewer gates",
        "narrow output",
        "one-dimensional",
    ],
)
def test_an_opening_that_does_not_fit_is_refused(change: str) -> None:
    with pytest.raises(OpeningShapeError):
        measured(SWIGLU, PROJECTIONS, a_frame(SWIGLU)[0], **broken(change))


def test_other_projections_sketches_are_refused() -> None:
    rows, output, opened = an_opening(SWIGLU)
    other = derive_projections(bytes(32), 2, b"m" * 32, 0, HIDDEN, INTERMEDIATE, 4)
    sketches = {n: sketch_expert(other, weights) for n, weights in enumerate(a_frame(SWIGLU)[0])}
    for held in (sketches, {}):
        with pytest.raises(SketchError):
            residuals(SWIGLU, PROJECTIONS, held, rows, output, opened)


def some_thresholds(limit: float) -> Thresholds:
    flat = (limit,) * len(ROW_COUNTS)
    limits = {
        (kind, stage): StageLimits(8 if stage is Stage.OPENED else 4, flat, flat, limit)
        for kind in OpeningKind
        for stage in Stage
    }
    return Thresholds(1e-4, {"made up": 1}, limits)


def flat_residuals(size: float, rows: int = 3, columns: int = 4) -> Residuals:
    wide = 8 if columns == 4 else columns
    return {
        stage: StageResiduals(np.full((rows, width), size), np.zeros((rows, width)))
        for stage, width in ((Stage.OPENED, wide), (Stage.OUTPUT, columns))
    }


@pytest.mark.parametrize("kind", OpeningKind)
def test_limits_apply_as_stated(kind: OpeningKind) -> None:
    limits = some_thresholds(0.5)
    assert isinstance(check_opening(flat_residuals(0.4999), limits, kind), Passed)
    found = check_opening(flat_residuals(0.5001), limits, kind)
    assert isinstance(found, Suspicion)
    assert found.stages == tuple(Stage)


def test_one_bad_row_among_many_is_suspected_by_the_largest() -> None:
    parts = {stage: part.errors.copy() for stage, part in flat_residuals(0.001, rows=64).items()}
    parts[Stage.OUTPUT][17] = 0.6
    found = check_opening(
        {stage: StageResiduals(errors, errors * 0) for stage, errors in parts.items()},
        some_thresholds(0.5),
        OpeningKind.RAW,
    )
    assert isinstance(found, Suspicion)
    assert found.stages == (Stage.OUTPUT,)
    assert found.readings[1].overall < 0.5 < found.readings[1].worst


def test_a_factor_that_all_rows_share_is_suspected_before_they_are_long() -> None:
    expected = np.random.default_rng(0).normal(size=(64, 8))
    noise = 0.1 * np.random.default_rng(1).normal(size=(64, 8))
    limits = some_thresholds(0.5)
    for factor, suspected in ((0.0, ()), (0.05, (Stage.OPENED,)), (-0.05, (Stage.OPENED,))):
        errors = noise + factor * expected
        found = check_opening({Stage.OPENED: StageResiduals(errors, expected)}, limits, OpeningKind.RAW)
        (reading,) = found.readings
        assert reading.scaling == pytest.approx(abs(factor), abs=0.01)
        assert reading.overall < reading.overall_limit and reading.worst < reading.worst_limit
        assert (found.stages if isinstance(found, Suspicion) else ()) == suspected


def test_a_bias_that_nobody_looks_for_is_none_of_an_opening_either() -> None:
    expected = np.random.default_rng(0).normal(size=(1000, 8))
    found = check_opening(
        {Stage.OPENED: StageResiduals(0.9 * SMALLEST_BIAS * expected, expected)},
        some_thresholds(0.01),
        OpeningKind.RAW,
    )
    assert isinstance(found, Passed)


def test_results_print_no_numbers() -> None:
    for size in (0.1, 0.9):
        shown = repr(check_opening(flat_residuals(size), some_thresholds(0.5), OpeningKind.RAW))
        assert str(size) not in shown


def test_thresholds_that_do_not_go_with_the_residuals_are_refused() -> None:
    complete = some_thresholds(0.5)
    lacking = replace(
        complete, limits={(OpeningKind.RAW, Stage.OPENED): complete.limits[OpeningKind.RAW, Stage.OPENED]}
    )
    for thresholds, found in (
        (complete, flat_residuals(0.1, columns=5)),
        (complete, flat_residuals(0.1, rows=MAX_ROWS + 1)),
        (lacking, flat_residuals(0.1)),
    ):
        with pytest.raises(ThresholdsError):
            check_opening(found, thresholds, OpeningKind.RAW)


def test_calibrated_thresholds_are_between_honest_and_dishonest() -> None:
    samples = honest_samples(SWIGLU, PROJECTIONS, 3, 400, GATES)
    thresholds = calibrate(samples)
    for key, limits in thresholds.limits.items():
        largest = max(block.by_row.max() for source in samples.values() for block in source[key])
        assert largest < limits.worst_of(1024) < max(4 * largest, 2e-5)
        assert list(limits.worst) == sorted(limits.worst)
        assert list(limits.overall) == sorted(limits.overall, reverse=True)
    assert calibrate(samples) == thresholds
