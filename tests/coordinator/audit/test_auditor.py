"""The auditor against nodes of every conduct: honest ones are never convicted, wrong outputs always are whatever the node opens
or does not, and evidence of it holds up offline; nobody who hands it results waits for it or sees its faults."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.line import DUE_ROWS_AT_ONCE
from folkmoot.coordinator.audit.sketch_book import SketchBook
from folkmoot.errors import ModelError
from folkmoot.ids import ExpertKey
from folkmoot.protos.limits import MAX_OPENED_ROWS
from folkmoot.tests.support.asked_node import Misconduct
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import running_auditor
from folkmoot.trust.evidence_check import Outcome, PublicModel, check_bytes
from folkmoot.trust.standing import Status

OPENINGS = set(Misconduct) - {
    Misconduct.SCALED_OUTPUT,
    Misconduct.DOUBLED_OUTPUT,
    Misconduct.TILTED_OUTPUT,
    Misconduct.REFUSES_FRAMES,
}
HARMLESS = {
    Misconduct.SILENT: ("late", True),
    Misconduct.REFUSES: ("refused", True),
    Misconduct.OTHER_KEY: ("signature", True),
    Misconduct.WRONG_SHAPE: ("malformed", True),
    Misconduct.LOST: ("link_lost", False),
    Misconduct.MOVED_ON: ("not_now", False),
}
"""Openings that do not count: why, and whether the node is struck for it though its result was right."""


MEMBERS: dict[str, Any] = {"probation_audits": 1, "lowest_rate": 1e-9}
"""Of whom one audit is enough; then their first audits alone ask for any."""


def test_an_honest_node_passes_and_becomes_a_member(tmp_path: Path) -> None:
    with running_auditor(tmp_path, probation_audits=20) as audits:
        node = audits.node()
        for seed in range(60):
            audits.auditor.watch(node.result(seed % 2, rows=1 + seed % 5, seed=seed))
        totals = audits.ended(60)
        assert totals.outcomes == {"passed": 60}
        assert (totals.suspected, totals.dropped, totals.unopened) == (0, 0, {})
        assert audits.standings.of(node.node).status is Status.MEMBER
        kinds = {challenge.message.kind for challenge in node.asked}
        assert kinds == {1, 2}, "both kinds of openings are asked for"
        assert len({challenge.message.nonce for challenge in node.asked}) == 60


def test_a_wrong_output_convicts_and_the_evidence_holds(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch(honest.result(seed=1))
        audits.auditor.watch(node.result(1, rows=4, seed=1))
        assert audits.ended(2).outcomes == {"passed": 1, "wrong": 1}
        audits.until(lambda _: not audits.standings.of(node.node).serves)
        assert "was wrong: layer 1" in audits.standings.of(node.node).reason
        assert audits.standings.of(honest.node).serves
        (path,) = audits.evidence
        model = PublicModel(audits.model.manifest.encoded, CanonicalExperts(audits.model).public)
        steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
        assert steps[-1].outcome is Outcome.PROVEN, steps


@pytest.mark.parametrize("also", [(), (Misconduct.SILENT,)], ids=["opens", "does not open"])
def test_a_small_bias_is_found_over_many_rows_and_proven(
    tmp_path: Path, also: tuple[Misconduct, ...]
) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.TILTED_OUTPUT, *also)
        for seed in range(40):
            audits.auditor.watch(node.result(rows=8, seed=seed))
        totals = audits.until(lambda totals: totals.outcomes.get("wrong", 0) > 0)
        assert 100 <= 8 * (1 + totals.outcomes["cleared"]) <= 130, "a single row may be off by so much"
        audits.until(lambda _: audits.standings.of(node.node).status is Status.QUARANTINED)
        assert "are biased by 0." in audits.standings.of(node.node).reason
        (path,) = audits.evidence
        model = PublicModel(audits.model.manifest.encoded, CanonicalExperts(audits.model).public)
        steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
        assert steps[-1].outcome is Outcome.PROVEN, steps


def test_the_same_rows_again_and_again_are_no_bias(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.TILTED_OUTPUT)
        for _ in range(40):
            audits.auditor.watch(node.result(rows=8, seed=1))
        assert audits.ended(40).outcomes == {"cleared": 40}


@pytest.mark.parametrize("does", sorted(OPENINGS), ids=lambda does: does.name)
def test_no_opening_saves_a_wrong_output(tmp_path: Path, does: Misconduct) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.SCALED_OUTPUT, does)
        audits.auditor.watch(node.result(seed=3))
        assert audits.ended(1).outcomes == {"wrong": 1}
        audits.until(lambda _: audits.standings.of(node.node).status is Status.QUARANTINED)
        assert len(audits.evidence) == 1


@pytest.mark.parametrize("does", HARMLESS, ids=lambda does: does.name)
def test_a_right_output_is_never_convicted(tmp_path: Path, does: Misconduct) -> None:
    reason, struck = HARMLESS[does]
    with running_auditor(tmp_path) as audits:
        node = audits.node(does)
        audits.auditor.watch(node.result(seed=4))
        totals = audits.ended(1)
        assert totals.outcomes == {"cleared": 1}
        assert totals.unopened == {reason: 1}
        audits.auditor.close()
        assert bool(audits.standings.of(node.node).strikes_s) == struck
        assert audits.standings.of(node.node).serves
        assert not audits.evidence


def test_a_convicted_node_is_not_looked_at_again(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.SCALED_OUTPUT, keeps=True)
        for seed in range(3):
            audits.auditor.watch(node.result(seed=seed))
        audits.until(lambda totals: totals.challenges == 3)
        for challenge in list(node.asked):
            node.answer(challenge)
        assert audits.ended(3).outcomes == {"wrong": 1, "abandoned": 2}
        audits.auditor.watch(node.result(seed=9))
        audits.until(lambda totals: totals.results == 4)
        assert len(node.asked) == 3
        assert len(audits.evidence) == 1


def test_what_does_not_fit_is_counted_and_nobody_waits(tmp_path: Path) -> None:
    with running_auditor(tmp_path, memory_bytes=1 << 20, **MEMBERS) as audits:
        node = audits.node(keeps=True)
        audits.auditor.watch(node.result(seed=9))
        audits.until(lambda totals: totals.challenges == 1)
        node.answer(node.asked.pop())
        audits.ended(1)
        result = node.result(rows=512, seed=1)
        half = (1 << 19) // result.size
        began_s = time.monotonic()
        for _ in range(200):
            audits.auditor.watch(result)
        assert time.monotonic() - began_s < 5
        totals = audits.until(lambda totals: totals.waiting + totals.challenges + totals.dropped == 201)
        assert (totals.challenges, totals.waiting) in ((2, half), (2, half - 1)), "half of the memory waits"
        node.answer(node.asked[0])
        audits.ended(2)
        for _ in range(200):
            audits.auditor.watch(result)
        audits.until(lambda totals: totals.waiting + totals.challenges + totals.dropped == 401)
        totals = audits.until(lambda totals: totals.waiting == half)
        assert totals.dropped == 401 - half - totals.challenges, "an audit that has ended makes room"


def test_a_member_is_asked_about_one_result_at_a_time_beyond_the_lowest_rate(tmp_path: Path) -> None:
    with running_auditor(tmp_path, busy_share=1.0, **MEMBERS) as audits:
        nodes = [audits.node(keeps=True) for _ in range(2)]
        for node in nodes:
            audits.auditor.watch(node.result(seed=9))
        audits.until(lambda totals: totals.challenges == 2)
        for node in nodes:
            node.answer(node.asked.pop())
        audits.ended(2)
        for seed in range(5):
            for node in nodes:
                audits.auditor.watch(node.result(seed=seed))
        audits.until(lambda totals: totals.challenges == 4 and totals.waiting == 8)
        for answered in range(4):
            nodes[0].answer(nodes[0].asked[answered])
            audits.until(lambda totals, so_far=answered: totals.challenges == so_far + 5)  # type: ignore[misc]
        assert (len(nodes[0].asked), len(nodes[1].asked)) == (5, 1)


def test_all_of_a_newcomer_is_asked_about_however_slowly_it_opens(tmp_path: Path) -> None:
    with running_auditor(tmp_path, busy_share=1e-6, rows_per_expert=MAX_OPENED_ROWS) as audits:
        node, other = audits.node(keeps=True), audits.node(keeps=True)
        for seed in range(20):
            audits.auditor.watch(node.result(seed=seed))
        audits.until(lambda totals: totals.challenges == 20 and totals.waiting == 0)
        rows = MAX_OPENED_ROWS
        for seed in range(DUE_ROWS_AT_ONCE // rows + 3):
            audits.auditor.watch(other.result(rows=rows, seed=seed))
        totals = audits.until(lambda totals: totals.waiting == 3)
        assert totals.challenges == 20 + DUE_ROWS_AT_ONCE // rows, (
            "as much as a node may have to open at a time"
        )
        other.answer(other.asked[0])
        audits.until(lambda totals: totals.waiting == 2)


def test_neither_much_work_nor_a_small_share_lowers_the_lowest_rate(tmp_path: Path) -> None:
    model = MemoryExperts(experts=1, hidden=32, intermediate=32)
    settings: dict[str, Any] = {
        "first_audits": 5,
        "probation_audits": 5,
        "lowest_rate": 0.1,
        "busy_share": 1e-6,
    }
    with running_auditor(tmp_path, model, **settings) as audits:
        node = audits.node()
        for seed in range(5):
            audits.auditor.watch(node.result(seed=seed, top_k=1))
        audits.ended(5)
        results = [node.result(seed=seed, top_k=1) for seed in range(400)]
        for result in results:
            audits.auditor.watch(result)
        totals = audits.until(lambda totals: totals.results == 405 and totals.challenges > 5 + 15)
        assert totals.challenges < 5 + 80, "40 +- 6 of 400"


def test_a_fault_ends_one_audit_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sketch, faults = SketchBook.sketch, iter([RuntimeError("a bug"), ModelError("the disk is gone")])

    def broken(book: SketchBook, key: ExpertKey) -> object:
        fault = next(faults, None)
        if fault is not None:
            raise fault
        return sketch(book, key)

    with running_auditor(tmp_path) as audits:
        monkeypatch.setattr(SketchBook, "sketch", broken)
        node = audits.node()
        for seed in range(3):
            audits.auditor.watch(node.result(seed=seed))
        assert audits.ended(3).outcomes == {"abandoned": 2, "passed": 1}


def test_members_are_audited_at_the_lowest_rate(tmp_path: Path) -> None:
    model = MemoryExperts(experts=1, hidden=32, intermediate=32)
    with running_auditor(tmp_path, model, first_audits=5, probation_audits=5, lowest_rate=0.1) as audits:
        node = audits.node()
        for seed in range(30):
            audits.auditor.watch(node.result(seed=seed, top_k=1))
            audits.until(lambda totals, seen=seed: totals.results == seen + 1)  # type: ignore[misc]
        before = audits.until(lambda totals: sum(totals.outcomes.values()) == totals.challenges).challenges
        assert before < 30
        for seed in range(400):
            audits.auditor.watch(node.result(seed=seed, top_k=1))
        totals = audits.until(lambda totals: totals.results == 430 and totals.challenges >= before + 10)
        assert totals.challenges - before <= 110, "about one in ten"


def test_thresholds_are_measured_once(tmp_path: Path) -> None:
    for _ in range(2):
        with running_auditor(tmp_path) as audits:
            audits.auditor.watch(audits.node().result())
            audits.ended(1)
        (path,) = (tmp_path / "thresholds").glob("*.json")
        content = path.read_bytes()
        written_s = path.stat().st_mtime_ns
    assert path.stat().st_mtime_ns == written_s
    path.write_bytes(content[:-9])
    with running_auditor(tmp_path) as audits:
        audits.auditor.watch(audits.node().result())
        assert audits.ended(1).outcomes == {"passed": 1}
    assert path.read_bytes() != content[:-9]
