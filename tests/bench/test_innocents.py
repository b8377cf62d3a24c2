"""Honest rows of every format are audited by the kernels of this machine, and nobody is convicted, of a bias or by made rows neither; a wrong
answer would be seen, and so would a biased one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from folkmoot.bench import honest_node, innocents
from folkmoot.bench.random_experts import FORMS, possible
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import DTYPES, WeightFormat
from folkmoot.kernels.native_library import SWITCH, load
from folkmoot.kernels.whole_inputs import WHOLE
from folkmoot.tests.support.native_isas import available

ALL = innocents.cases()
SECRET = bytes(32)
WIDE = next(case for case in ALL if case.dtype == "float32")
USUAL = next(case for case in ALL if (case.form, case.dtype) == (WeightFormat.BFLOAT16, "bfloat16"))


def test_every_format_is_audited_with_every_layout_and_type() -> None:
    pairs = {(case.form, case.layout, case.activation) for case in ALL}
    assert pairs == {(form, *one) for form in WeightFormat for one in FORMS if possible(form, one[0])}
    assert {(case.form, case.dtype) for case in ALL} == {
        (form, dtype) for form in WeightFormat for dtype in DTYPES
    }
    assert [case.number for case in ALL] == list(range(len(ALL)))


def some(monkeypatch: pytest.MonkeyPatch, *chosen: innocents.Case) -> None:
    """Of these models alone, and small ones."""
    monkeypatch.setattr(innocents, "HIDDEN", 128)
    monkeypatch.setattr(innocents, "INTERMEDIATE", 96)
    monkeypatch.setattr(innocents, "cases", lambda: list(chosen))


def test_honest_rows_are_counted_and_nobody_is_convicted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some(monkeypatch, USUAL, WIDE)
    report = innocents.measure_kernels(2600, 0, tmp_path, SECRET).document()
    assert (report["rows"], report["verdicts"]) == (2600, 0)
    assert report["suspicions"] <= 2
    assert report["bias"]["rows"] >= 100
    assert report["bias"]["verdicts"] == 0
    made = report["made_rows"]
    assert (made["rows"] > made["nothing_said"] > 0, made["verdicts"]) == (True, 0)
    assert report["by_thresholds_of_other_kernels"]["audits"] == 0
    for name in (
        *USUAL.names,
        "raw openings",
        "tight openings",
        "8 rows",
        "1 experts a row",
        "8 experts a row",
        "2 threads",
    ):
        assert report["parts"][name]["rows"] > 0, name


def test_openings_are_judged_by_the_thresholds_of_both_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some(monkeypatch, USUAL)
    for kernels in innocents.KERNELS:
        with monkeypatch.context() as other:
            other.setattr(innocents, "kernels_here", lambda kernels=kernels: kernels)
            innocents.calibrate_kernels(0, tmp_path, SECRET)
    found = innocents.measure_kernels(100, 0, tmp_path, SECRET)
    assert (found.crossed.rows, found.crossed.audits) == (100, found.total.audits)
    assert found.crossed.verdicts == 0


@pytest.mark.skipif(not available(), reason="no native kernels here")
@pytest.mark.parametrize("form", sorted(WHOLE))
def test_thresholds_that_torch_measures_suspect_no_native_kernels(
    form: WeightFormat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some(monkeypatch, next(case for case in ALL if (case.form, case.dtype) == (form, "float32")))
    with monkeypatch.context() as alone:
        alone.setenv(SWITCH, "torch")
        load.cache_clear()
        try:
            innocents.calibrate_kernels(0, tmp_path, SECRET)
        finally:
            load.cache_clear()
    found = innocents.measure_kernels(200, 0, tmp_path, SECRET)
    assert (found.kernels, found.crossed.audits) == ("native", found.total.audits)
    assert (found.crossed.suspicions, found.total.suspicions) == (0, 0)


def test_a_wrong_answer_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    some(monkeypatch, USUAL)

    def wrong(groups: Sequence[Group], hidden: torch.Tensor) -> torch.Tensor:
        return feed_forward(groups, hidden) * 1.05

    monkeypatch.setattr(honest_node, "feed_forward", wrong)
    found = innocents.measure_kernels(200, 0, tmp_path, SECRET)
    assert found.total.verdicts == found.total.suspicions == found.total.audits > 0
    assert found.framed > 0
    assert torch.get_num_threads() == 1


def test_a_biased_answer_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    some(monkeypatch, USUAL)

    def biased(groups: Sequence[Group], hidden: torch.Tensor) -> torch.Tensor:
        return feed_forward(groups, hidden) * 1.005

    monkeypatch.setattr(honest_node, "feed_forward", biased)
    found = innocents.measure_kernels(1300, 0, tmp_path, SECRET)
    assert found.biased > 0
