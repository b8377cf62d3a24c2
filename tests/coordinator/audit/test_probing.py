"""Whoever learns the projections by openings that are a little wrong over results that are right sees nothing of what became of them, is
struck when they are far off or too many, and has learned what is not used any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.coordinator.audit import probing_watch
from folkmoot.coordinator.audit.examiner import FAR_OFF
from folkmoot.coordinator.audit.probing_watch import ProbingWatch
from folkmoot.ids import NodeId
from folkmoot.tests.support.asked_node import AskedNode, Misconduct
from folkmoot.tests.support.probing_node import ProbingNode
from folkmoot.tests.support.running_auditor import RunningAuditor, running_auditor
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.standing import Status

PATIENCE_S = 60.0
NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
LITTLE = 1e-4
"""Beyond what float32 sums do, of which this model is, and less than what is far."""


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def prober(audits: RunningAuditor, **options: Any) -> ProbingNode:
    return ProbingNode(audits.model, audits.identity.public, **options)


def asks(audits: RunningAuditor, node: AskedNode, seeds: range) -> None:
    """Has some of the node's results audited, one after another."""
    before = sum(audits.counters.totals().outcomes.values())
    for number, seed in enumerate(seeds, 1):
        audits.auditor.watch(node.result(rows=3, seed=seed))
        audits.ended(before + number)


@pytest.mark.parametrize(
    "does", [Misconduct.WRONG_OPENING, Misconduct.NOT_A_NUMBER], ids=lambda does: does.name
)
def test_an_opening_that_is_far_off_is_a_strike(tmp_path: Path, does: Misconduct) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(does)
        asks(audits, node, range(1))
        audits.auditor.close()
        assert audits.counters.totals().outcomes == {"cleared": 1}
        assert len(audits.standings.of(node.node).strikes_s) == 1
        assert audits.standings.of(node.node).serves
        assert not audits.evidence


def test_too_many_of_them_put_a_member_back_on_probation(tmp_path: Path) -> None:
    with running_auditor(tmp_path, probation_audits=1) as audits:
        node = prober(audits)
        asks(audits, node, range(1))
        assert audits.standings.of(node.node).status is Status.MEMBER
        node.off = 0.5
        asks(audits, node, range(1, 6))
        until(lambda: audits.standings.of(node.node).status is Status.PROBATION)
        assert FAR_OFF in audits.standings.of(node.node).reason


def test_a_single_false_alarm_changes_nothing_that_a_node_could_see(tmp_path: Path) -> None:
    with running_auditor(tmp_path, probation_audits=3) as audits:
        nodes = [prober(audits), prober(audits)]
        for number in range(3):
            nodes[0].off = LITTLE if number == 1 else 0.0
            for node in nodes:
                asks(audits, node, range(number, number + 1))
        audits.auditor.close()
        totals = audits.counters.totals()
        assert (totals.suspected, totals.outcomes) == (1, {"passed": 5, "cleared": 1}), "or nothing was tried"
        standings = [audits.standings.of(node.node) for node in nodes]
        assert {standing.status for standing in standings} == {Status.MEMBER}
        assert {(standing.reason, standing.strikes_s) for standing in standings} == {("passed 3 audits", ())}
        passed = audits.auditor._chooser.policy.passed
        by_node = [
            {subject.expert: audits for subject, audits in passed.items() if subject.node == node.node}
            for node in nodes
        ]
        assert by_node[0] == by_node[1], "nor is it audited more often"


def asking_for(audits: RunningAuditor, kind: OpeningKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits.auditor._chooser, "kind", lambda: kind)


def test_another_machines_sums_may_all_be_beyond_a_tight_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_auditor(tmp_path) as audits:
        asking_for(audits, OpeningKind.TIGHT, monkeypatch)
        node, spent = prober(audits, off=LITTLE), audits.sketches.current
        asks(audits, node, range(6))
        assert audits.counters.totals().suspected >= 3, "or nothing was tried"
        audits.auditor.close()
        assert not audits.standings.of(node.node).strikes_s
        audits.sketches.refresh()
        assert audits.sketches.current.epoch == spent.epoch


def test_too_many_for_chance_bring_new_projections_and_no_strike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_auditor(tmp_path) as audits:
        asking_for(audits, OpeningKind.RAW, monkeypatch)
        node, honest = prober(audits, off=LITTLE), audits.node()
        spent = audits.sketches.current
        asks(audits, honest, range(20))
        asks(audits, node, range(1))
        audits.sketches.refresh()
        assert audits.sketches.current.epoch == spent.epoch, "once is chance"
        asks(audits, node, range(1, 4))
        totals = audits.counters.totals()
        assert totals.suspected >= 2, "or nothing was tried"
        audits.auditor.close()
        assert not audits.standings.of(node.node).strikes_s, "its kernels may be others"
        assert not audits.standings.of(honest.node).strikes_s
        audits.sketches.refresh()
        assert audits.sketches.current.epoch == spent.epoch + 1


def test_many_nodes_that_each_try_once_are_seen_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_auditor(tmp_path) as audits:
        asking_for(audits, OpeningKind.RAW, monkeypatch)
        spent = audits.sketches.current
        for _ in range(6):
            asks(audits, prober(audits, off=LITTLE), range(1))
        assert audits.counters.totals().suspected >= 3, "or nothing was tried"
        audits.auditor.close()
        audits.sketches.refresh()
        assert audits.sketches.current.epoch == spent.epoch + 1
        assert not any(record.standing.strikes_s for record in audits.standings.records().values())


def test_counts_begin_anew_with_each_epoch() -> None:
    watch = ProbingWatch(1e-4)
    for epoch in (1, 1, 2, 3):
        watch.looked_at(NODE, 0, epoch)
        found = watch.for_nothing(NODE, 0)
        assert found == (False, False) or epoch == 1
    watch.looked_at(NODE, 0, 3)
    assert watch.for_nothing(NODE, 0) == (True, True)
    watch.forget(NODE)
    watch.looked_at(NODE, 1, 3)
    assert watch.for_nothing(NODE, 1) == (False, False)


def test_good_openings_make_room_for_false_alarms() -> None:
    watch = ProbingWatch(1e-4)
    for _ in range(20_000):
        watch.looked_at(NODE, 0, 1)
    assert [watch.for_nothing(NODE, 0) for _ in range(8)] == [(False, False)] * 8
    watch.looked_at(OTHER, 0, 1)
    watch.for_nothing(OTHER, 0)
    watch.looked_at(OTHER, 0, 1)
    assert watch.for_nothing(OTHER, 0) == (True, False), "for one node it is many, for all it is not"


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing_watch, "MOST_NODES", 8)
    watch = ProbingWatch(1e-4)
    for number in range(100):
        node = NodeId(f"{number:064x}")
        watch.looked_at(node, 0, 1)
        watch.for_nothing(node, 0)
        assert len(watch._looked_at) <= 9
        assert len(watch._for_nothing) <= 9
