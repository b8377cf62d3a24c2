"""The harness says of each adversary what became of it: verdicts with evidence that verifies, rejections whose calls were answered
honestly all the same and whose credit is what was done, and strikes; and it does not call caught what is not, nor what was late by
chance, nor an answer audited that no cheat had a part in."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.bench.adversaries.audited import Asked
from folkmoot.bench.adversaries.bouts import QUARANTINED, STRUCK, UNCAUGHT, Bout
from folkmoot.bench.adversaries.harness import Extent, measure
from folkmoot.bench.adversaries.kinds import Adversary
from folkmoot.bench.adversaries.model import prepared
from folkmoot.bench.adversaries.rehearsal import Rehearsed, rehearse
from folkmoot.bench.adversaries.report import Measured, interval, quantile, table
from folkmoot.trust.audit_policy import AuditPolicy

SEED = 11
FEW = Extent(
    bouts=1, bout_calls=20, trusted_bouts=1, asked=1, runs=10, run_calls=600, seldom_calls=100, in_many_runs=1
)


def test_each_fate_is_measured(tmp_path: Path) -> None:
    kinds = (
        Adversary.INT8_BLOCK,
        Adversary.FORGED_OPENING,
        Adversary.REPLAY,
        Adversary.SMALL_ORDER_KEY,
        Adversary.RECEIPTS_FOR_WORK_NOT_DONE,
    )
    measured = measure(tmp_path, FEW, SEED, kinds)
    convicted, struck, rejected, weak, claims = measured
    assert not [one.faults for one in measured if one.faults]
    assert convicted.verdicts == {QUARANTINED: 1}
    assert convicted.evidence_verified is True
    # True when the verdict fell in the middle of a call, whose rows then went to the honest node.
    assert convicted.retried_answers_equal in (None, True)
    assert all(one.audited_answers_equal is True for one in measured if one is not weak)
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
    assert all(None not in (one.document()[key] for key in wanted) for one in measured)
    assert document["calls_from"] == "simulation" and document["runs"] == 10 and document["seed"] == SEED
    assert document["wire"]["calls_until_caught_median"] <= 2
    assert document["wire"]["wrong_answers_until_caught"] >= 1
    assert document["wire_trusted"]["runs"] == 1
    assert 1 <= document["wire_trusted"]["calls_until_caught_median"] < 600
    assert document["audited"]["results_that_cheated"] >= 1
    assert document["simulation"]["convicted"] == 10
    assert document["simulation"]["share_within_228_calls"] == 1.0
    assert 1 < document["calls_until_caught_median"] < 229
    assert struck.verdicts == {STRUCK: 1} and struck.rehearsed is None
    assert "nothing is proven" in struck.document()["evidence_verified"]
    assert rejected.verdicts == {"rejected: signature_wrong": 1}
    assert rejected.retried_answers_equal is True and rejected.document()["calls_until_caught_p99"] == 2
    assert "none" in rejected.document()["evidence_verified"]
    assert weak.verdicts == {"rejected: enrolment": 1} and weak.document()["calls_until_caught_p99"] == 0
    assert claims.verdicts == {"rejected: receipt": 1}
    assert claims.document()["wire"]["credit_equals_work"] is True
    shown = table(measured)
    assert "int8_block" in shown and f"100.00% of 10 runs, promised in 99%: yes. Seed {SEED}" in shown


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
            Adversary.RECEIPTS_FOR_WORK_NOT_DONE,
            bout("rejected: receipt", retried_equal=True, credit_equal=False),
            None,
        ),
        (Adversary.SMALL_ORDER_KEY, bout(UNCAUGHT, None), None),
        (
            Adversary.ZEROS,
            bout(QUARANTINED, evidence=(True,)),
            Rehearsed((229,) * 2 + (1,) * 98, 100, 100, 100),
        ),
        (Adversary.ZEROS, bout(QUARANTINED, evidence=(True,)), Rehearsed((1,) * 100, 120, 100, 100)),
    ],
)
def test_what_is_not_as_promised_is_said(
    adversary: Adversary, ended: Bout, rehearsed: Rehearsed | None
) -> None:
    measured = Measured(adversary, [ended], 20, rehearsed, 600, [asked()])
    assert measured.faults and measured.document()["as_promised"] is False
    assert "NO: " in table([measured])


def asked(equal: bool = True, part: int = 1) -> Asked:
    return Asked(equal, 6, part, 0, 0)


@pytest.mark.parametrize("answers", [[asked(False)], [asked(), asked(False)], [asked(part=0)]])
def test_audited_answers_that_are_not_the_honest_ones_or_asked_no_cheat_are_said(
    answers: list[Asked],
) -> None:
    ended = bout(QUARANTINED, evidence=(True,))
    assert not Measured(Adversary.ZEROS, [ended], 20, None, 600, [asked(), asked(part=0)]).faults
    measured = Measured(Adversary.ZEROS, [ended], 20, None, 600, answers)
    assert measured.faults
    assert measured.document()["audited_answers_equal"] is all(one.equal for one in answers)
    assert not Measured(Adversary.FORGED_OPENING, [bout(STRUCK)], 20, None, 600, [asked()]).faults
    assert Measured(Adversary.FORGED_OPENING, [ended], 20, None, 600, [asked()]).faults, (
        "its results are right"
    )


def test_a_trusted_node_that_is_not_caught_is_said() -> None:
    ended = bout(QUARANTINED, evidence=(True,))
    assert not Measured(Adversary.BIAS, [ended], 20, None, 600, trusted=[ended]).faults
    measured = Measured(Adversary.BIAS, [ended], 20, None, 600, trusted=[ended, bout(UNCAUGHT, None)])
    assert measured.faults == ["1 of 2 trusted nodes not caught on the wire"]
    assert measured.document()["wire_trusted"]["calls_until_caught_most"] is None


def test_one_run_in_a_hundred_may_be_late_and_no_more() -> None:
    ended = bout(QUARANTINED, evidence=(True,))

    def late(runs: int, kind: Adversary = Adversary.ZEROS) -> Measured:
        return Measured(kind, [ended], 20, Rehearsed((300,) * runs + (1,) * (200 - runs), 200, 200, 200), 600)

    assert not late(2).faults and late(3).faults == ["within 228 calls in 98.5% of runs"]
    assert not late(100, Adversary.FIXED_DIRECTION).faults, "no single audit shows it"
    assert "in 99.00% of 400 runs, promised in 99%: yes" in table([late(2), late(2)])
    assert "in 98.75% of 400 runs, promised in 99%: NO" in table([late(2), late(3)])


def test_runs_that_did_not_end_have_no_number() -> None:
    assert quantile([3, None, 1, 2], 0.5) == 2
    assert quantile([3, None, 1, 2], 0.99) is None
    assert quantile([], 0.5) is None


def test_the_interval_holds_what_it_should() -> None:
    low, high = interval(50, 100)
    assert 0.40 < low < 0.41 and 0.59 < high < 0.60
    assert interval(0, 10)[0] == 0.0 and interval(10, 10)[1] == 1.0


def test_whoever_gives_its_last_answer_again_has_one_from_the_first_call_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuditPolicy, "choose", lambda policy, subjects, draw: list(subjects))
    model = prepared(tmp_path / "model")
    rehearsed = rehearse(model, tmp_path / "audits", Adversary.STALE_OUTPUT, 3, 5, seed=4)
    assert rehearsed.calls == (1, 1, 1)
