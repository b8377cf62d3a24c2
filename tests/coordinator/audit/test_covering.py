"""Results that somebody waits for: audited whole, at once, told once; and told that they are right only when they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.audit.covering import AT_ONCE, AuditImpossibleError
from folkmoot.coordinator.audit.examiner import Examiner
from folkmoot.coordinator.audit.inbox import Inbox
from folkmoot.coordinator.audit.judge import Judge
from folkmoot.coordinator.audit.selection import SelectionCaps, cover
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.errors import ModelError
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.tests.support.asked_node import AskedNode, Misconduct
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import running_auditor
from folkmoot.tests.support.waiting_step import WaitingStep, covered
from folkmoot.trust.audit_policy import AuditSubject
from folkmoot.trust.standing import Status

SELDOM: dict[str, Any] = {
    "first_audits": 1,
    "probation_audits": 1,
    "lowest_rate": 1e-6,
    "busy_share": 1e-6,
}


def test_every_row_is_asked_about_and_whoever_waits_is_told_once(tmp_path: Path) -> None:
    with running_auditor(tmp_path, **SELDOM, most_rows=16, rows_per_expert=2) as audits:
        node, step = audits.node(), WaitingStep(40)
        wanted = [*range(0, 40, 2), 39]
        audits.auditor.watch(covered(node.result(rows=40), step, wanted))
        step.wait(passes=1)
        asked = [list(challenge.message.asked) for challenge in node.asked]
        assert sorted(row for rows in asked for row in rows) == wanted
        assert len(asked) > 1
        assert audits.counters.totals().outcomes == {"passed": len(asked)}
        assert audits.standings.of(node.node).status is Status.MEMBER
        for challenge in node.asked:
            pairs = np.frombuffer(challenge.message.experts.data, "<i4")
            assert len(pairs) == 2 * len(challenge.message.asked), "every expert of a row is asked for"


def test_they_go_before_others_and_keep_to_no_pace(tmp_path: Path) -> None:
    with running_auditor(tmp_path, **(SELDOM | {"first_audits": 1000})) as audits:
        node = audits.node(keeps=True)
        audits.auditor.watch(node.result(seed=9))
        audits.until(lambda totals: totals.challenges == 1)
        node.answer(node.asked.pop())
        audits.ended(1)
        for seed in range(5):
            audits.auditor.watch(node.result(seed=seed))
        audits.until(lambda totals: totals.challenges == 2 and totals.waiting == 4)
        steps = [WaitingStep() for _ in range(AT_ONCE + 3)]
        for seed, step in enumerate(steps):
            audits.auditor.watch(covered(node.result(seed=seed), step))
        audits.until(lambda totals: totals.challenges == 2 + AT_ONCE and totals.waiting == 4 + 3)
        for answered in range(1, 1 + len(steps)):
            node.answer(node.asked[answered])
            audits.until(
                lambda totals, so_far=answered: (  # type: ignore[misc]
                    totals.challenges == 2 + min(so_far + AT_ONCE, len(steps))
                )
            )
        for step in steps:
            step.wait(passes=1)
        assert audits.counters.totals().challenges == 2 + len(steps), "the others still wait"


@pytest.mark.parametrize(
    "does",
    [
        Misconduct.SILENT,
        Misconduct.LOST,
        Misconduct.REFUSES,
        Misconduct.MOVED_ON,
        Misconduct.OTHER_KEY,
        Misconduct.WRONG_SHAPE,
        Misconduct.WRONG_OPENING,
    ],
    ids=lambda does: does.name,
)
def test_without_an_opening_that_counts_the_rows_are_computed(tmp_path: Path, does: Misconduct) -> None:
    with running_auditor(tmp_path, **SELDOM) as audits:
        right, wrong = WaitingStep(), WaitingStep()
        audits.auditor.watch(covered(audits.node(does).result(seed=1), right))
        right.wait(passes=1)
        assert audits.counters.totals().outcomes == {"cleared": 1}
        convicted: list[NodeId] = []
        audits.auditor.consequences.on_convicted = convicted.append
        liar = audits.node(Misconduct.SCALED_OUTPUT, does)
        audits.auditor.watch(covered(liar.result(seed=1), wrong))
        audits.until(lambda totals: bool(convicted))
        assert convicted == [liar.node]
        assert (wrong.passes, wrong.errors) == (0, [])
        assert not audits.standings.of(liar.node).serves
        assert len(audits.evidence) == 1


def test_a_node_that_does_not_open_holds_nobody_up_for_long(tmp_path: Path) -> None:
    with running_auditor(tmp_path, **SELDOM) as audits:
        node = audits.node(Misconduct.SILENT, keeps=True)
        steps = [WaitingStep() for _ in range(AT_ONCE + 3)]
        for seed, step in enumerate(steps):
            audits.auditor.watch(covered(node.result(seed=seed), step))
        audits.until(lambda totals: totals.challenges == AT_ONCE and totals.waiting == 3)
        node.answer(node.asked[0])
        for step in (steps[0], *steps[AT_ONCE:]):
            step.wait(passes=1)
        assert len(node.asked) == AT_ONCE
        for challenge in node.asked[1:]:
            node.answer(challenge)
        for step in steps:
            step.wait(passes=1)


def test_results_of_a_node_that_was_sent_away_are_computed(tmp_path: Path) -> None:
    with running_auditor(tmp_path, **SELDOM) as audits:
        node, liar = audits.node(), audits.node(Misconduct.SCALED_OUTPUT)
        steps = [WaitingStep() for _ in range(2)]
        for asked in (node, liar):
            audits.standings.banned(asked.node, "for no reason")
        audits.auditor.watch(covered(node.result(), steps[0]))
        audits.auditor.watch(covered(liar.result(), steps[1]))
        steps[0].wait(passes=1)
        assert audits.ended(2).outcomes == {"cleared": 1, "wrong": 1}
        assert (node.asked, liar.asked, steps[1].passes) == ([], [], 0)


def test_what_nobody_waits_for_any_more_is_not_asked_about(tmp_path: Path) -> None:
    with running_auditor(tmp_path, **SELDOM) as audits:
        node, gone = audits.node(keeps=True), WaitingStep()
        for seed in range(AT_ONCE + 2):
            audits.auditor.watch(covered(node.result(seed=seed), gone))
        audits.until(lambda totals: totals.challenges == AT_ONCE)
        gone.wanted = False
        for challenge in node.asked[:AT_ONCE]:
            node.answer(challenge)
        assert audits.ended(AT_ONCE + 2).outcomes == {"abandoned": AT_ONCE + 2}
        assert len(node.asked) == AT_ONCE
        assert gone.passes == 0


def test_a_fault_of_the_examination_leads_to_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Examiner, "examine", broken)
    with running_auditor(tmp_path, **SELDOM) as audits:
        step = WaitingStep()
        audits.auditor.watch(covered(audits.node().result(), step))
        step.wait(passes=1)


def test_where_nothing_can_be_computed_whoever_waits_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ModelError("the disk is gone")

    with running_auditor(tmp_path, **SELDOM) as audits:
        monkeypatch.setattr(Judge, "recompute", broken)
        step, after = WaitingStep(), WaitingStep()
        audits.auditor.watch(covered(audits.node(Misconduct.SILENT).result(rows=3), step))
        step.wait(errors=1)
        assert isinstance(step.errors[0], AuditImpossibleError)
        assert "the disk is gone" in str(step.errors[0])
        audits.auditor.watch(covered(audits.node().result(), after))
        after.wait(passes=1)
        assert audits.counters.totals().outcomes == {"abandoned": 1, "passed": 1}


def test_a_row_of_too_many_experts_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("folkmoot.coordinator.audit.chooser.opened_pairs", lambda intermediate: 1)
    with running_auditor(tmp_path, **SELDOM) as audits:
        node, step = audits.node(), WaitingStep()
        audits.auditor.watch(covered(node.result(), step))
        step.wait(passes=1)
        assert not node.asked


def test_there_is_always_room_for_them_and_it_is_given_back() -> None:
    result = AskedNode(MemoryExperts(hidden=64, intermediate=48), bytes(32)).result()
    inbox: Inbox[int] = Inbox(result.size)
    assert [inbox.put(result), inbox.put(result)] == [True, False]
    waited = covered(AskedNode(MemoryExperts(hidden=64, intermediate=48), bytes(32)).result(), WaitingStep())
    assert inbox.put(waited)
    assert inbox.take(10) == [result, waited]
    inbox.release(result)
    assert not inbox.put(result)
    inbox.release(waited)
    assert inbox.put(result)


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_selections_have_each_wanted_row_once_and_are_within_the_caps(
    rows: int, experts: int, most_rows: int, most_pairs: int, seed: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    top_k = min(3, experts)
    ids = np.stack([generator.permutation(experts)[:top_k] for _ in range(rows)])
    pairs = Pairs.of(ids, generator.random((rows, top_k)).astype(np.float32))
    wanted = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    subjects = {
        expert: AuditSubject(NodeId("ab" * 32), ExpertKey(0, expert), "1") for expert in pairs.loads[0]
    }
    caps = SelectionCaps(1, most_rows, most_pairs)
    found = cover(pairs, rows, np.array(wanted, np.int64), subjects, caps)
    assert [row for selection in found for row in selection.rows.tolist()] == wanted
    for selection in found:
        assert len(selection.rows) <= most_rows
        assert len(selection.pairs) <= most_pairs or len(selection.rows) == 1
        assert len(selection.pairs) == top_k * len(selection.rows)
        assert {subject.expert.expert for subject in selection.subjects} == set(selection.pairs.loads[0])
