"""Honest rows of every format are audited by the kernels of this machine, and nobody is convicted; a wrong answer would be."""

from __future__ import annotations

import pytest
import torch

from folkmoot.bench import innocents
from folkmoot.bench.random_experts import FORMS
from folkmoot.kernels.feed_forward import feed_forward
from folkmoot.kernels.formats import WeightFormat


def test_honest_rows_are_counted_and_nobody_is_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(innocents, "FORMS", FORMS[:1])
    monkeypatch.setattr(innocents, "DTYPES_OF_ACTIVATIONS", ("bfloat16",))
    report = innocents.measure_kernels(600, 3).document()
    assert (report["rows"], report["verdicts"]) == (600, 0)
    assert report["suspicions"] <= 2
    assert set(WeightFormat) <= set(report["parts"])
    for name in ("raw openings", "tight openings", "1 rows", "8 rows", "1 threads", "2 threads"):
        assert report["parts"][name]["rows"] > 0


def test_a_wrong_answer_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(innocents, "FORMS", FORMS[:1])
    monkeypatch.setattr(innocents, "DTYPES_OF_ACTIVATIONS", ("bfloat16",))
    monkeypatch.setattr(innocents, "feed_forward", lambda groups, hidden: feed_forward(groups, hidden) * 1.05)
    found = innocents.measure_kernels(200, 3).total
    assert found.verdicts == found.suspicions == found.audits > 0
    assert torch.get_num_threads() == 1
