"""Without the weights: two unrelated nodes decide what they agree on, with evidence that holds up once somebody has the weights; what
they do not agree on, or will not say, is decided by nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from folkmoot.coordinator.audit.covering import AuditImpossibleError
from folkmoot.coordinator.audit.hearings import AT_ONCE
from folkmoot.coordinator.audit.judge import Judge
from folkmoot.coordinator.dispatch.counters import DispatchCounters
from folkmoot.coordinator.dispatch.directory import Directory
from folkmoot.coordinator.dispatch.network_experts import DispatchSettings, NetworkExperts
from folkmoot.coordinator.dispatch.verified_result import Rivals, VerifiedResult
from folkmoot.errors import ModelError
from folkmoot.ids import NodeId
from folkmoot.tests.support.asked_node import AskedNode, Misconduct
from folkmoot.tests.support.running_auditor import RunningAuditor, running_auditor
from folkmoot.tests.support.waiting_step import WaitingStep, covered
from folkmoot.trust.evidence_check import Outcome, PublicModel, check_bytes
from folkmoot.trust.expert_arithmetic import Doubles
from folkmoot.trust.recompute import Tolerance
from folkmoot.trust.standing import Status
from folkmoot.trust.testimony import Statement, weigh_testimony


class DirectLoop:
    """An event loop that does at once what it is given, as in-memory nodes answer at once."""

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: Any) -> None:
        call(*arguments)


class Village:
    """An auditor without weights, and nodes that it may call as witnesses.

    Attributes:
        credited: Results that were handed to whoever watches.
    """

    def __init__(self, audits: RunningAuditor, owners: dict[NodeId, str]) -> None:
        self.audits = audits
        self.credited: list[VerifiedResult] = []
        manifest = audits.model.manifest
        self.directory = Directory(manifest)
        network = NetworkExperts(
            DirectLoop(),  # type: ignore[arg-type]
            self.directory,
            manifest,
            audits.identity.public,
            DispatchCounters(),
            DispatchSettings(),
            self.credited.append,
        )
        audits.auditor.hearings.use(network, lambda node: owners.get(node, f"owner of {node}"))

    def member(self, *does: Misconduct) -> AskedNode:
        """A node that has passed its probation, and holds nothing."""
        node = self.audits.node(*does)
        while self.audits.standings.of(node.node).status is not Status.MEMBER:
            self.audits.standings.audit_passed(node.node)
        return node

    def node(self, *does: Misconduct, experts: int = 4, newcomer: bool = False) -> AskedNode:
        """A node that holds the first experts of each layer."""
        node = self.audits.node(*does) if newcomer else self.member(*does)
        held = frozenset(key for key in self.audits.model.manifest.experts if key.expert < experts)
        self.directory.update(node, held)
        return node


@contextmanager
def village(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owners: dict[NodeId, str] | None = None, **settings: Any
) -> Iterator[Village]:
    def gone(*_: object) -> None:
        raise ModelError("the weights are elsewhere")

    with running_auditor(folder, **settings) as audits:
        monkeypatch.setattr(Judge, "recompute", gone)
        yield Village(audits, {} if owners is None else owners)


def test_a_wrong_result_convicts_and_the_evidence_holds_once_there_are_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with village(tmp_path, monkeypatch) as here:
        audits, liar = here.audits, here.node(Misconduct.DOUBLED_OUTPUT)
        witnesses = [here.node(), here.node()]
        audits.auditor.watch(liar.result(1, rows=6, seed=2, top_k=3))
        audits.until(lambda _: audits.standings.of(liar.node).status is Status.QUARANTINED)
        audits.until(lambda totals: totals.outcomes == {"wrong": 1})
        assert audits.counters.totals().heard == 1
        assert "agree upon" in audits.standings.of(liar.node).reason
        for node in witnesses:
            assert audits.standings.of(node.node).serves
            assert len(node.frames) == 1
            assert [challenge.message.kind for challenge in node.asked] == [1], (
                "committed first, then opened raw"
            )
        assert not liar.frames
        assert {result.host.node for result in here.credited} == {node.node for node in witnesses}
        (path,) = audits.evidence
        model = PublicModel(audits.model.manifest.encoded, audits.experts.public)
        steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
        assert steps[-1].outcome is Outcome.PROVEN, steps[-1].detail


def test_a_right_result_is_cleared_whatever_its_node_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with village(tmp_path, monkeypatch) as here:
        node, _, _ = here.node(Misconduct.WRONG_OPENING), here.node(), here.node()
        here.audits.auditor.watch(node.result(rows=6))
        assert here.audits.ended(1).outcomes == {"cleared": 1}
        assert here.audits.standings.of(node.node).serves
        assert not here.audits.evidence


@pytest.mark.parametrize(
    "does",
    [
        Misconduct.DOUBLED_OUTPUT,
        Misconduct.REFUSES_FRAMES,
        Misconduct.SILENT,
        Misconduct.OTHER_KEY,
        Misconduct.WRONG_OPENING,
        Misconduct.NOT_A_NUMBER,
        Misconduct.WRONG_SHAPE,
    ],
    ids=lambda does: does.name,
)
@pytest.mark.parametrize(
    "accused", [Misconduct.DOUBLED_OUTPUT, Misconduct.WRONG_OPENING], ids=lambda it: it.name
)
def test_where_witnesses_do_not_agree_nothing_is_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: Misconduct, accused: Misconduct
) -> None:
    with village(tmp_path, monkeypatch) as here:
        node, _, _ = here.node(accused), here.node(), here.node(does)
        here.audits.auditor.watch(node.result(rows=6))
        assert here.audits.ended(1).outcomes == {"abandoned": 1}
        assert here.audits.standings.of(node.node).serves
        assert not here.audits.evidence


def test_witnesses_are_unrelated_to_one_another_and_to_the_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: dict[NodeId, str] = {}
    with village(tmp_path, monkeypatch, owners) as here:
        liar, friend = here.node(Misconduct.DOUBLED_OUTPUT), here.node()
        one, other = here.node(), here.node()
        owners |= {liar.node: "liar", friend.node: "liar", one.node: "somebody", other.node: "somebody"}
        here.audits.auditor.watch(liar.result(rows=6))
        assert here.audits.ended(1).outcomes == {"abandoned": 1}
        assert not any(node.frames for node in (friend, one, other))
        owners[other.node] = "somebody else"
        here.audits.auditor.watch(liar.result(rows=6))
        here.audits.until(lambda totals: totals.outcomes.get("wrong") == 1)
        assert not friend.frames and one.frames and other.frames


def test_nodes_of_nobody_known_are_one_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: dict[NodeId, str] = {}
    with village(tmp_path, monkeypatch, owners) as here:
        liar, one, other = here.node(Misconduct.DOUBLED_OUTPUT), here.node(), here.node()
        owners |= {one.node: one.node, other.node: other.node}
        here.audits.auditor.watch(liar.result(rows=6))
        assert here.audits.ended(1).outcomes == {"abandoned": 1}
        assert not one.frames and not other.frames
        known = here.node()
        here.audits.auditor.watch(liar.result(rows=6))
        here.audits.until(lambda totals: totals.outcomes.get("wrong") == 1)
        assert known.frames and bool(one.frames) != bool(other.frames)


def test_nobody_on_probation_is_a_witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with village(tmp_path, monkeypatch) as here:
        liar, member = here.node(Misconduct.DOUBLED_OUTPUT), here.node()
        newcomers = [here.node(newcomer=True), here.node(newcomer=True)]
        here.audits.auditor.watch(liar.result(rows=6))
        assert here.audits.ended(1).outcomes == {"abandoned": 1}
        assert not any(node.frames for node in (member, *newcomers))


def test_more_hearings_than_are_held_at_once_wait_for_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with village(tmp_path, monkeypatch) as here:
        node, witnesses = here.node(Misconduct.SILENT), [here.node(), here.node()]
        for witness in witnesses:
            witness.keeps = True
        steps = [WaitingStep() for _ in range(3 * AT_ONCE)]
        for seed, step in enumerate(steps):
            here.audits.auditor.watch(covered(node.result(seed=seed), step))
        here.audits.until(lambda totals: totals.heard == AT_ONCE)
        here.audits.until(lambda _: all(len(witness.asked) == AT_ONCE for witness in witnesses))
        for witness in witnesses:
            witness.keeps = False
            for challenge in list(witness.asked):
                witness.answer(challenge)
        for step in steps:
            step.wait(passes=1)
        assert here.audits.counters.totals().heard == len(steps)


def test_experts_may_have_different_witnesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with village(tmp_path, monkeypatch) as here:
        liar, _, few = here.node(Misconduct.DOUBLED_OUTPUT), here.node(), here.node(experts=1)
        rest = here.member()
        here.directory.update(
            rest, frozenset(key for key in here.audits.model.manifest.experts if key.expert >= 1)
        )
        here.audits.auditor.watch(liar.result(rows=8, top_k=3))
        here.audits.until(lambda totals: totals.outcomes.get("wrong") == 1)
        assert rest.frames or few.frames


def test_whoever_waits_is_told_what_witnesses_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with village(tmp_path, monkeypatch) as here:
        silent = here.node(Misconduct.SILENT)
        step, vain = WaitingStep(), WaitingStep()
        here.audits.auditor.watch(covered(silent.result(), vain))
        vain.wait(errors=1)
        assert isinstance(vain.errors[0], AuditImpossibleError)
        here.node(), here.node()
        here.audits.auditor.watch(covered(silent.result(), step))
        step.wait(passes=1)


def test_second_answers_are_judged_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with village(tmp_path, monkeypatch) as here:
        liar, honest = here.node(Misconduct.DOUBLED_OUTPUT), here.node()
        others = [here.node(), here.node()]
        results = [node.result(rows=5, seed=3) for node in (honest, liar)]
        rows = np.arange(5)
        here.audits.auditor.watch_rivals(Rivals((results[0], rows), ((results[1], rows),)))
        here.audits.until(lambda totals: totals.outcomes == {"wrong": 1, "cleared": 1})
        here.audits.until(lambda _: not here.audits.standings.of(liar.node).serves)
        assert here.audits.standings.of(honest.node).serves
        assert not liar.frames and not honest.frames and all(node.frames for node in others)


TOLERANCE = Tolerance()


def side(answers: Doubles) -> Statement:
    return Statement(answers, None, np.ones((len(answers), 4)))


@pytest.mark.parametrize(
    ("off", "wrong", "right"),
    [
        (0.0, False, True),
        (0.009, False, True),
        (0.012, False, False),
        (0.026, False, False),
        (0.03, True, False),
    ],
)
def test_how_far_from_the_witnesses_decides(off: float, wrong: bool, right: bool) -> None:
    answers = np.random.default_rng(0).standard_normal((6, 32))
    rows, gates = np.repeat(np.arange(3), 2), np.full(6, 0.5)
    truth = np.zeros((3, 32))
    np.add.at(truth, rows, answers * gates[:, None])
    sizes = np.maximum(
        np.linalg.norm(truth, axis=1),
        np.sqrt(np.add.reduceat(np.square(0.5 * np.linalg.norm(answers, axis=1)), [0, 2, 4])),
    )
    signed = truth.copy()
    signed[1, 3] += off * sizes[1]
    found = weigh_testimony(signed, rows, gates, (side(answers), side(answers)), TOLERANCE)
    assert (found.agree, found.wrong, found.right) == (True, wrong, right)
    nearly = answers * (1 + 0.013)
    assert weigh_testimony(signed, rows, gates, (side(answers), side(nearly)), TOLERANCE).agree
    apart = answers.copy()
    apart[4] *= 1.02
    found = weigh_testimony(signed, rows, gates, (side(answers), side(apart)), TOLERANCE)
    assert (found.agree, found.wrong, found.right) == (False, False, False)


def test_answers_that_cancel_are_measured_against_their_parts() -> None:
    one = np.random.default_rng(0).standard_normal((1, 32))
    answers = np.concatenate([one, -one * (1 + 1e-3)])
    rows, gates = np.zeros(2, np.int64), np.ones(2)
    signed = answers.sum(axis=0, keepdims=True) + 0.005 * np.linalg.norm(one) * np.eye(32)[:1]
    found = weigh_testimony(signed, rows, gates, (side(answers), side(answers)), TOLERANCE)
    assert found.right and not found.wrong


@pytest.mark.parametrize(
    ("size", "float16"), [(1e-7, False), (1e-20, False), (1e10, False), (1e-3, True), (300.0, True)]
)
def test_nothing_is_said_of_rows_that_machines_flush_or_overflow(size: float, float16: bool) -> None:
    answers = np.random.default_rng(0).standard_normal((4, 32))
    rows, gates = np.arange(4), np.ones(4)
    for scale, heard in ((1.0, True), (size, False)):
        said = Statement(answers * scale**2, answers * scale, answers * scale)
        found = weigh_testimony(2 * said.answers, rows, gates, (said, said), TOLERANCE, float16=float16)
        assert (found.agree, found.wrong) == (heard, heard)
        found = weigh_testimony(said.answers, rows, gates, (said, said), TOLERANCE, float16=float16)
        assert found.right == heard
