"""The kernel benchmark measures every format every way, and what it measures is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from folkmoot.bench import kernels
from folkmoot.bench.kernel_systems import WorkingSet, make_spec, our_systems, torch_systems
from folkmoot.kernels import native_library
from folkmoot.kernels.formats import WeightFormat
from folkmoot.tests.support.native_isas import threads

HONEST = 0.0059
"""The honest band of the trust model."""


def test_each_way_is_measured_in_each_format_and_stays_in_the_honest_band(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with threads(1):
        report = kernels.measure(quick=True)
    assert set(report["read_gb_per_s"]) == {"1", "2"}
    ways = {(row["format"], row["backend"]) for row in report["rows"]}
    expected = {"folkmoot", "native"} if native_library.load() else {"folkmoot"}
    for form in WeightFormat:
        assert expected <= {backend for stored, backend in ways if stored == form}
    assert ("bfloat16", "linear") in ways and ("bfloat16", "grouped_mm") in ways
    for row in report["rows"]:
        assert row["us"] > 0 and row["relative_error"] <= HONEST, row
        assert row["ratio_to_linear"] > 0 and row["fraction_of_bandwidth"] > 0
    kernels.show(report)
    assert "of read" in capsys.readouterr().out


def test_calls_take_turns_through_the_whole_working_set() -> None:
    work = WorkingSet.fill(make_spec((64, 32), WeightFormat.INT8), np.zeros(1 << 18, np.uint8), packed=True)
    calls = work.calls(8, torch.zeros(1, 64), torch.ones(1))
    seen = {id(expert) for call in calls for expert in call.experts}
    assert len(seen) == 8 * len(calls) > len(work.experts) - 8


@pytest.mark.parametrize("form", [WeightFormat.BFLOAT16, WeightFormat.INT4])
def test_all_ways_compute_the_same(form: WeightFormat) -> None:
    spec, memory = make_spec((64, 32), form), np.zeros(1 << 18, np.uint8)
    rows, gates = torch.randn(3, 64).to(torch.bfloat16), torch.tensor([0.5, 1.0, 2.0])
    packed = WorkingSet.fill(spec, memory, packed=True).calls(4, rows, gates)[1]
    answers = [run(packed) for run in our_systems(native_library.load() is not None).values()]
    work = WorkingSet.fill(spec, memory, packed=False)
    plain = work.calls(4, rows, gates)[1]
    answers += [run(plain) for run in torch_systems(work).values()]
    assert len(answers) > 1
    for answer in answers[1:]:
        assert float((answer - answers[0]).norm() / answers[0].norm()) < HONEST
