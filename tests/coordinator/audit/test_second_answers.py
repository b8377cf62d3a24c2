"""Second answers beside first ones: who lied is convicted whichever came first, with evidence; who did not is not even struck; what
honest rounding does is no disagreement; nobody waits for any of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from folkmoot.coordinator.audit.auditor import MOST_RIVALS
from folkmoot.coordinator.audit.judge import Judge
from folkmoot.coordinator.audit.question import Question, signed_output
from folkmoot.coordinator.audit.second_answers import _apart, _places
from folkmoot.coordinator.audit.settings import AuditSettings
from folkmoot.coordinator.audit.threshold_store import ThresholdStore
from folkmoot.coordinator.dispatch.verified_result import Rivals, VerifiedResult
from folkmoot.errors import ModelError
from folkmoot.tests.support.asked_node import AskedNode, Misconduct
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import RunningAuditor, running_auditor
from folkmoot.trust.evidence_check import Outcome, PublicModel, check_bytes
from folkmoot.trust.recompute import Recomputed
from folkmoot.trust.standing import Status


def rivals(first: AskedNode, second: AskedNode, rows: int = 5, seed: int = 1) -> Rivals:
    """Both nodes' answers to the same rows, which are not the step's first."""
    results = [node.result(1, rows=rows, seed=seed) for node in (first, second)]
    where = np.arange(3, 3 + rows)
    return Rivals((results[0], where), ((results[1], where),))


def test_honest_answers_agree(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        nodes = audits.node(), audits.node()
        for seed in range(20):
            audits.auditor.watch_rivals(rivals(*nodes, rows=1 + seed, seed=seed))
        audits.auditor.watch(nodes[0].result())
        totals = audits.ended(1)
        assert (totals.disagreed, totals.outcomes, totals.dropped) == (0, {"passed": 1}, 0)


def convicted(audits: RunningAuditor, liar: AskedNode, honest: AskedNode) -> None:
    audits.until(lambda totals: totals.outcomes == {"wrong": 1, "cleared": 1})
    assert audits.counters.totals().disagreed == 1
    audits.until(lambda _: audits.standings.of(liar.node).status is Status.QUARANTINED)
    assert "was wrong: layer 1" in audits.standings.of(liar.node).reason
    standing = audits.standings.of(honest.node)
    assert standing.serves and not standing.strikes_s
    (path,) = audits.evidence
    model = PublicModel(audits.model.manifest.encoded, audits.experts.public)
    steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
    assert steps[-1].outcome is Outcome.PROVEN
    assert not liar.asked and not honest.asked, "nobody was asked anything"


@pytest.mark.parametrize("liar_first", [True, False])
def test_who_lied_is_convicted_and_the_other_is_not(tmp_path: Path, liar_first: bool) -> None:
    with running_auditor(tmp_path) as audits:
        liar, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch_rivals(rivals(liar, honest) if liar_first else rivals(honest, liar))
        convicted(audits, liar, honest)


def test_many_rows_are_looked_at_where_they_differ(tmp_path: Path) -> None:
    with running_auditor(tmp_path, most_rows=8) as audits:
        liar, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch_rivals(rivals(liar, honest, rows=200))
        convicted(audits, liar, honest)


@pytest.mark.parametrize("size", [1e-18, 1e10])
def test_over_rows_of_which_nothing_can_be_said_nobody_is_convicted(tmp_path: Path, size: float) -> None:
    with running_auditor(tmp_path) as audits:
        nodes = audits.node(Misconduct.DOUBLED_OUTPUT), audits.node()
        first, second = (node.result(1, size=size) for node in nodes)
        audits.auditor.watch_rivals(Rivals((first, np.arange(3)), ((second, np.arange(3)),)))
        audits.until(lambda totals: totals.outcomes == {"cleared": 2})
        assert audits.counters.totals().disagreed == 1
        assert all(audits.standings.of(node.node).serves for node in nodes)
        assert not audits.evidence


def test_what_a_convicted_node_answered_is_not_compared(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        liar, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch_rivals(rivals(liar, honest))
        convicted(audits, liar, honest)
        audits.auditor.watch_rivals(rivals(liar, honest, seed=9))
        audits.auditor.watch(honest.result())
        audits.until(lambda totals: totals.outcomes.get("passed") == 1)
        assert audits.counters.totals().disagreed == 1


def test_a_fault_ends_one_comparison_and_nobody_is_accused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ModelError("the disk is gone")

    with running_auditor(tmp_path) as audits:
        liar, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        with monkeypatch.context() as patch:
            patch.setattr(Judge, "recompute", broken)
            audits.auditor.watch_rivals(rivals(liar, honest))
            audits.until(lambda totals: totals.outcomes == {"abandoned": 1})
        assert all(audits.standings.of(node.node).serves for node in (liar, honest))
        audits.auditor.watch_rivals(rivals(liar, honest))
        audits.until(lambda totals: totals.outcomes.get("wrong") == 1)
        audits.until(lambda _: not audits.standings.of(liar.node).serves)


def test_no_more_wait_than_there_is_room_for(tmp_path: Path) -> None:
    running = RunningAuditor(tmp_path, MemoryExperts(), AuditSettings())
    one = rivals(running.node(), running.node())
    for _ in range(MOST_RIVALS + 5):
        running.auditor.watch_rivals(one)
    assert running.counters.totals().dropped == 5


def test_what_waits_to_be_compared_is_kept_within_memory(tmp_path: Path) -> None:
    model = MemoryExperts()
    node = AskedNode(model, bytes(32))
    one = rivals(node, AskedNode(model, bytes(32)), rows=200)
    running = RunningAuditor(tmp_path, model, AuditSettings(memory_bytes=3 * one.size))
    for _ in range(5):
        running.auditor.watch_rivals(one)
    assert running.counters.totals().dropped == 2
    running.auditor.start()
    running.until(lambda _: running.auditor._inbox.reserve(3 * one.size))
    running.auditor.close()


def test_how_far_apart_is_suspicious_is_known_without_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ModelError("nothing can be measured")

    monkeypatch.setattr(ThresholdStore, "of", gone)
    with running_auditor(tmp_path) as audits:
        liar, honest = audits.node(Misconduct.DOUBLED_OUTPUT), audits.node()
        audits.auditor.watch_rivals(rivals(liar, honest))
        convicted(audits, liar, honest)


@pytest.mark.parametrize(("times", "disagree"), [(1.0085, False), (1.0115, True)])
def test_a_suspicion_begins_beyond_what_two_honest_answers_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, disagree: bool
) -> None:
    with running_auditor(tmp_path) as audits:
        nodes = audits.node(), audits.node()
        whole = rivals(*nodes)
        output = signed_output(whole.first[0])
        whole.first[0].result.output.data = (output * np.float32(times)).astype("<f4").tobytes()
        audits.auditor.watch_rivals(whole)
        audits.auditor.watch(nodes[1].result())
        audits.until(lambda totals: totals.outcomes.get("passed") == 1)
        assert audits.counters.totals().disagreed == disagree


def test_a_side_that_cannot_be_looked_into_keeps_nobody_from_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recompute, asked = Judge.recompute, []

    def first_fails(judge: Judge, question: Question) -> Recomputed:
        asked.append(question.verified.host.node)
        if len(asked) == 1:
            raise ModelError("the disk is gone")
        return recompute(judge, question)

    monkeypatch.setattr(Judge, "recompute", first_fails)
    with running_auditor(tmp_path) as audits:
        liar, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch_rivals(rivals(honest, liar))
        audits.until(lambda totals: totals.outcomes == {"wrong": 1, "abandoned": 1})
        assert asked == [honest.node, liar.node]


def stub(output: np.ndarray[Any, np.dtype[Any]]) -> VerifiedResult:
    message = SimpleNamespace(output=SimpleNamespace(data=output.astype("<f4").tobytes(), shape=output.shape))
    return SimpleNamespace(result=message)  # type: ignore[return-value]


def test_several_second_answers_are_one_answer_together() -> None:
    generator = np.random.default_rng(0)
    rows = np.array([4, 7, 9])
    parts = [generator.standard_normal((2, 8)).astype(np.float32) for _ in range(2)]
    where = [np.array([4, 9]), np.array([7, 9])]
    total = np.zeros((3, 8), np.float32)
    for part, of_rows in zip(parts, where, strict=True):
        total[np.searchsorted(rows, of_rows)] += part
    both = tuple((stub(part), of_rows) for part, of_rows in zip(parts, where, strict=True))
    apart, sizes = _apart(Rivals((stub(total), rows), both))
    assert apart.max() < 1e-6 * sizes.max()
    total[1] *= 1.5
    apart, sizes = _apart(Rivals((stub(total), rows), both))
    assert np.flatnonzero(apart > 0.1 * sizes).tolist() == [1]
    assert _places(where[0], np.array([9, 7, 4])).tolist() == [1, 0]
