"""Proven: extrapolated quantiles are those of known distributions, thresholds cover each source, bad samples are
refused, and thresholds survive their JSON and come from nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust.audit_check import Suspicion, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.calibration import FLOOR, calibrate, gamma_quantile
from folkmoot.trust.residuals import Stage, StageResiduals
from folkmoot.trust.thresholds import MAX_JSON_BYTES, ROW_COUNTS, StageLimits, Thresholds, ThresholdsError

KEY = (OpeningKind.RAW, Stage.OUTPUT)
CHI_SQUARE = {(1, 1e-4): 15.137, (8, 1e-4): 31.828, (8, 1e-7): 48.46, (16, 1e-4): 45.925}
"""Published quantiles: degrees and upper tail."""


def block(errors: Any) -> StageResiduals:
    array = np.asarray(errors, np.float64)
    return StageResiduals(array, np.zeros_like(array))


def gaussian(size: float, rows: int, columns: int, seed: int = 0) -> StageResiduals:
    errors, expected = np.random.default_rng(seed).normal(size=(2, rows, columns))
    return StageResiduals(size * errors, expected)


@pytest.mark.parametrize(("degrees", "rate"), CHI_SQUARE)
def test_the_gamma_quantile_is_the_chi_squares(degrees: int, rate: float) -> None:
    assert gamma_quantile(degrees, 2 * degrees, rate) == pytest.approx(CHI_SQUARE[degrees, rate], rel=0.08)


@pytest.mark.parametrize("columns", [1, 4, 8, 16])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_false_positives_come_at_the_rate_asked_for(columns: int, rows: int) -> None:
    """Of Gaussian residuals; at 1 % so that a count shows it."""
    limits = calibrate({"a": {KEY: [gaussian(0.003, 4000, columns)]}}, rate=0.01).limits[KEY]
    fresh = gaussian(0.003, 2000 * rows, columns, seed=1)
    audits = [
        StageResiduals(fresh.errors[start : start + rows], fresh.expected[start : start + rows])
        for start in range(0, 2000 * rows, rows)
    ]
    long = [
        np.sqrt(np.mean(np.square(audit.by_row))) > limits.overall_of(rows)
        or audit.by_row.max() > limits.worst_of(rows)
        for audit in audits
    ]
    scaled = [
        abs(factor) > limits.scaling_of(length) for factor, length in (audit.scaling() for audit in audits)
    ]
    assert 0.0005 < np.mean(long) < 0.01
    assert np.mean(scaled) < 0.01
    assert (
        rows * columns > 16 or np.mean(scaled) > 0.001
    )  # of many rows a bias that nobody looks for hides it


def test_rows_that_resemble_each_other_widen_the_mean() -> None:
    """Blocks of different sizes of error: a whole audit may lie in the worst of them."""
    alike = [gaussian(0.003, 500, 8, seed) for seed in range(8)]
    unlike = [gaussian(0.002 + 0.0003 * seed, 500, 8, seed) for seed in range(8)]
    narrow, wide = (calibrate({"a": {KEY: blocks}}).limits[KEY] for blocks in (alike, unlike))
    assert wide.overall_of(256) > 1.2 * narrow.overall_of(256)


def test_each_source_fits_below_the_thresholds() -> None:
    small, large = {KEY: [gaussian(1e-4, 2000, 8)]}, {KEY: [gaussian(3e-3, 2000, 8)]}
    both = calibrate({"exact": small, "rounded": large})
    assert both.limits == calibrate({"rounded": large}).limits
    assert dict(both.sources) == {"exact": 2000, "rounded": 2000}


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_false_positives_of_both_stages_together_come_at_the_rate_asked_for(rows: int) -> None:
    """Of the whole check, at 1 % a stage: two of a hundred audits may be suspected."""
    opened, output = (OpeningKind.RAW, Stage.OPENED), KEY
    thresholds = calibrate(
        {"a": {opened: [gaussian(0.003, 4000, 8, 5)], output: [gaussian(0.003, 4000, 4, 6)]}}, rate=0.01
    )
    fresh = {
        Stage.OPENED: gaussian(0.003, 2000 * rows, 8, 7),
        Stage.OUTPUT: gaussian(0.003, 2000 * rows, 4, 8),
    }
    suspected = alone = 0
    for start in range(0, 2000 * rows, rows):
        audit = {
            stage: StageResiduals(part.errors[start : start + rows], part.expected[start : start + rows])
            for stage, part in fresh.items()
        }
        suspected += isinstance(check_opening(audit, thresholds, OpeningKind.RAW), Suspicion)
        every = np.concatenate([part.errors.ravel() for part in audit.values()])
        alone += np.sqrt(np.mean(np.square(every))) > thresholds.together_of(OpeningKind.RAW, rows)
    assert 0.002 < suspected / 2000 < 0.02
    assert 0.001 < alone / 2000 < 0.006 * 1.6


def test_a_suspicion_of_both_stages_together_names_both() -> None:
    """Each stage is a little longer than usual, neither longer than it may be."""
    samples = {
        (OpeningKind.RAW, Stage.OPENED): [gaussian(0.003, 4000, 8, 5)],
        KEY: [gaussian(0.003, 4000, 4, 6)],
    }
    thresholds = calibrate({"a": samples})
    found = {}
    for stage, columns in ((Stage.OPENED, 8), (Stage.OUTPUT, 4)):
        limit = 0.97 * thresholds.limits_of(OpeningKind.RAW, stage).overall_of(1)
        found[stage] = block([[limit] * columns])
    result = check_opening(found, thresholds, OpeningKind.RAW)
    assert isinstance(result, Suspicion) and result.stages == tuple(Stage)
    assert all(reading.within for reading in result.readings)


def test_no_limit_is_below_the_floor() -> None:
    limits = calibrate({"a": {KEY: [gaussian(1e-9, 2000, 8)]}}).limits[KEY]
    assert set(limits.overall + limits.worst) == {FLOOR}


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [gaussian(1e-3, 999, 8)],
        [gaussian(1e-3, 2000, 8), block([[math.inf] * 8])],
        [gaussian(1e-3, 2000, 8), block([[math.nan] * 8])],
        [gaussian(1e-3, 2000, 8), gaussian(1e-3, 2000, 4)],
    ],
    ids=["none", "few", "infinite", "not a number", "two widths"],
)
def test_bad_samples_are_refused(blocks: list[StageResiduals]) -> None:
    with pytest.raises(ThresholdsError):
        calibrate({"a": {KEY: blocks}})


def test_sources_of_two_widths_are_refused() -> None:
    with pytest.raises(ThresholdsError):
        calibrate({"a": {KEY: [gaussian(1, 2000, 8)]}, "b": {KEY: [gaussian(1, 2000, 4)]}})


@given(st.integers(1, ROW_COUNTS[-1]))
def test_limits_between_counts_are_the_wider_ones(rows: int) -> None:
    limits = StageLimits(8, tuple(map(float, reversed(ROW_COUNTS))), tuple(map(float, ROW_COUNTS)), 1.0)
    assert limits.worst_of(rows) >= rows > limits.worst_of(rows) / 2
    at = [float(count) for count in ROW_COUNTS if count <= rows]
    assert limits.overall_of(rows) == limits.overall[len(at) - 1]


ROWS_LIMITS = st.lists(st.floats(1e-12, 1e9), min_size=len(ROW_COUNTS), max_size=len(ROW_COUNTS)).map(tuple)
LIMITS = st.builds(
    StageLimits,
    st.integers(1, 128),
    *[ROWS_LIMITS] * 2,
    st.floats(1e-12, 1e9),
)
KEYS = st.tuples(st.sampled_from(OpeningKind), st.sampled_from(Stage))
THRESHOLDS = st.builds(
    Thresholds,
    st.floats(1e-9, 0.49),
    st.dictionaries(st.text(max_size=10), st.integers(0, 10**9), max_size=3),
    st.dictionaries(KEYS, LIMITS, max_size=4),
    st.dictionaries(st.sampled_from(OpeningKind), ROWS_LIMITS, max_size=2),
)


@given(THRESHOLDS)
def test_thresholds_survive_their_json(thresholds: Thresholds) -> None:
    again = Thresholds.decode(thresholds.encode())
    assert again == thresholds
    assert again.encode() == thresholds.encode()


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_whatever_comes_as_thresholds_raises_nothing_else(text: str | bytes) -> None:
    with pytest.raises(ThresholdsError):
        Thresholds.decode(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(["format", "rate", "sources", "row_counts", "limits", "together"]), JSON)
def test_any_part_replaced_raises_nothing_else(part: str, value: Any) -> None:
    document = json.loads(some_thresholds().encode()) | {part: value}
    try:
        read = Thresholds.decode(json.dumps(document))
    except ThresholdsError:
        return
    assert json.loads(read.encode()) == document


def some_thresholds() -> Thresholds:
    return calibrate({"a": {KEY: [gaussian(3e-3, 2000, 8)]}})


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(some_thresholds().encode())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        edited(lambda document: document.update(more=1)),
        edited(lambda document: document.pop("rate")),
        edited(lambda document: document.update(format="folkmoot-thresholds/1")),
        edited(lambda document: document.update(rate=0)),
        edited(lambda document: document.update(rate=True)),
        edited(lambda document: document["limits"]["raw/output"]["worst"].pop()),
        edited(lambda document: document["limits"]["raw/output"].update(columns=0)),
        edited(lambda document: document["limits"]["raw/output"].pop("lengthening")),
        edited(lambda document: document["limits"]["raw/output"].update(lengthening=0)),
        edited(lambda document: document["limits"].update({"raw/other": {}})),
        edited(lambda document: document.pop("together")),
        edited(lambda document: document["together"].update(raw=[1.0])),
        edited(lambda document: document["together"].update(raw=[0.0] * len(ROW_COUNTS))),
        edited(lambda document: document["together"].update(loose=[1.0] * len(ROW_COUNTS))),
        edited(lambda document: document["sources"].update(a=-1)),
        some_thresholds().encode().replace('"rate": 0.0001', '"rate": NaN'),
        some_thresholds().encode().replace('"rate": 0.0001', '"rate": 1e999'),
        some_thresholds().encode().replace('"rate": 0.0001', '"rate": 0.0001, "rate": 0.0001'),
        "[" * 60_000,
        "9" * 60_000,
        " " * (MAX_JSON_BYTES + 1),
    ],
    ids=range(21),
)
def test_thresholds_that_are_not_quite_thresholds_are_refused(text: str) -> None:
    with pytest.raises(ThresholdsError):
        Thresholds.decode(text)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_that_is_none_is_refused(bad: float) -> None:
    thresholds = some_thresholds()
    limits = replace(thresholds.limits[KEY], worst=(bad,) * len(ROW_COUNTS))
    with pytest.raises(ThresholdsError):
        replace(thresholds, limits={KEY: limits})
