"""The harness says of each adversary what became of it: verdicts with evidence that verifies, rejections whose calls were answered
honestly all the same, and strikes; and it does not call caught what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.bench.adversaries.arena import QUARANTINED, STRUCK, UNCAUGHT, Bout
from folkmoot.bench.adversaries.harness import Extent, measure
from folkmoot.bench.adversaries.kinds import Adversary
from folkmoot.bench.adversaries.rehearsal import Rehearsed
from folkmoot.bench.adversaries.report import Measured, interval, quantile, table

FEW = Extent(bouts=1, bout_calls=20, runs=10, run_calls=600, seldom_calls=100)


def test_each_fate_is_measured(tmp_path: Path) -> None:
    kinds = (Adversary.INT8_CHANNEL, Adversary.FORGED_OPENING, Adversary.REPLAY)
    convicted, struck, rejected = measure(tmp_path, FEW, kinds)
    assert convicted.verdicts == {QUARANTINED: 1}
    assert convicted.evidence_verified is True
    # True when the verdict fell in the middle of a call, whose rows then went to the honest node.
    assert convicted.retried_answers_equal in (None, True)
    assert all(one.audited_answers_equal is True for one in (convicted, struck, rejected))
    document = convicted.document()
    wanted = {
        "adversary",
        "runs",
        "calls_until_caught_median",
        "calls_until_caught_p99",
        "verdicts",
        "evidence_verified",
        "audited_answers_equal",
    }
    assert wanted <= set(document)
    assert document["calls_from"] == "simulation" and document["runs"] == 10
    assert document["wire"]["calls_until_caught_median"] <= 2
    assert document["wire"]["wrong_answers_until_caught"] >= 1
    assert document["simulation"]["convicted"] >= 8
    assert 1 < document["calls_until_caught_median"] < 300
    assert struck.verdicts == {STRUCK: 1} and struck.rehearsed is None and struck.evidence_verified is None
    assert rejected.verdicts == {"rejected: signature_wrong": 1}
    assert rejected.retried_answers_equal is True and rejected.document()["calls_until_caught_p99"] == 2
    assert not [one.faults for one in (convicted, struck, rejected) if one.faults]
    assert "int8_channel" in table([convicted, struck, rejected])


def bout(verdict: str, calls: int | None = 1, **changes: object) -> Bout:
    fields = {"evidence": (), "wrong_answers": 0, "retried_equal": None, "innocents_accused": False}
    return Bout(calls, verdict, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adversary", "ended", "rehearsed"),
    [
        (Adversary.ZEROS, bout(UNCAUGHT, None), None),
        (Adversary.ZEROS, bout(STRUCK), None),
        (Adversary.ZEROS, bout(QUARANTINED, evidence=(True, False)), None),
        (Adversary.ZEROS, bout(QUARANTINED), None),
        (Adversary.ZEROS, bout(QUARANTINED, evidence=(True,), innocents_accused=True), None),
        (Adversary.REPLAY, bout(QUARANTINED, evidence=(True,)), None),
        (Adversary.REPLAY, bout("rejected: signature_wrong", retried_equal=False), None),
        (
            Adversary.ZEROS,
            bout(QUARANTINED, evidence=(True,)),
            Rehearsed((229,) * 10 + (1,) * 90, 100, 100, 100),
        ),
        (Adversary.ZEROS, bout(QUARANTINED, evidence=(True,)), Rehearsed((1,) * 100, 120, 100, 100)),
    ],
)
def test_what_is_not_as_promised_is_said(
    adversary: Adversary, ended: Bout, rehearsed: Rehearsed | None
) -> None:
    measured = Measured(adversary, [ended], 20, rehearsed, 600, [True])
    assert measured.faults and measured.document()["as_promised"] is False
    assert "NO: " in table([measured])


@pytest.mark.parametrize("audited", [[False], [None], [True, False]])
def test_audited_answers_that_are_not_the_honest_ones_are_said(audited: list[bool | None]) -> None:
    ended = bout(QUARANTINED, evidence=(True,))
    assert not Measured(Adversary.ZEROS, [ended], 20, None, 600, [True, None]).faults
    measured = Measured(Adversary.ZEROS, [ended], 20, None, 600, audited)
    assert measured.faults and measured.document()["audited_answers_equal"] is not True
    assert not Measured(Adversary.FORGED_OPENING, [bout(STRUCK)], 20, None, 600, [True]).faults
    assert Measured(Adversary.FORGED_OPENING, [ended], 20, None, 600, [True]).faults, "its results are right"


def test_runs_that_did_not_end_have_no_number() -> None:
    assert quantile([3, None, 1, 2], 0.5) == 2
    assert quantile([3, None, 1, 2], 0.99) is None
    assert quantile([], 0.5) is None


def test_the_interval_holds_what_it_should() -> None:
    low, high = interval(50, 100)
    assert 0.40 < low < 0.41 and 0.59 < high < 0.60
    assert interval(0, 10)[0] == 0.0 and interval(10, 10)[1] == 1.0
