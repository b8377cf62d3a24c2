"""Nodes are tried with rows whose answers are known before they get traffic, over the real wire."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

from folkmoot.coordinator.audit.evidence_keeper import EVIDENCE_FOLDER
from folkmoot.coordinator.probe.checking import Asked, Checker, Speed
from folkmoot.coordinator.probe.settings import ProbeSettings
from folkmoot.errors import ModelError, UsageError
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.node_states import NodeState, Wish
from folkmoot.protos.wire_states import state_of
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import Probing, RunningHub, running_hub
from folkmoot.tests.support.scripted_node import Fault, ScriptedNode

PATIENCE_S = 60.0


class UnreadableExperts(MemoryExperts):
    """Experts whose files the coordinator has lost."""

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        raise ModelError("the disk is gone")


def held_back(network: RunningHub, **options: object) -> ScriptedNode:
    """A node that is about to join, and answers no frame until it is let."""
    node = ScriptedNode(network.hub.invite, network.model, **options)  # type: ignore[arg-type]
    node.paused.clear()
    network.nodes.append(node)
    return node


def state(network: RunningHub, node: ScriptedNode) -> str:
    """Where a node stands, as the hub sees it."""
    return network.seen(node).state.value


async def until_cut_off(network: RunningHub, node: ScriptedNode) -> str:
    """Waits until a node was cut off; what it was told."""
    await network.until(lambda: node.closing is not None, PATIENCE_S)
    assert node.closing is not None
    return node.closing.reason


async def test_a_node_serves_only_after_it_was_right(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path)) as network:
        node = held_back(network)
        await node.join()
        await network.until(lambda: node.frames and state(network, node) == "probing", PATIENCE_S)
        assert not network.hub.directory.coverage.covered
        assert network.seen(node).bytes_per_second is None
        node.paused.set()
        await network.until(lambda: network.hub.covered() and state(network, node) == "ready", PATIENCE_S)
        seen = network.seen(node)
        assert seen.bytes_per_second is not None
        assert seen.results_verified == len(node.frames) <= 2
        assert sum(frame.hidden.shape[0] for frame in node.frames) <= 4 * 2
        await network.until(lambda: state_of(node.told[-1].state) is NodeState.READY, PATIENCE_S)
        states = [told for told, _ in groupby(state_of(change.state) for change in node.told)]
        assert states == [NodeState.JOINING, NodeState.DOWNLOADING, NodeState.PROBING, NodeState.READY]
        await network.check(0)


async def test_a_wrong_answer_refuses_the_node_with_evidence_before_it_gets_traffic(tmp_path: Path) -> None:
    convicted: list[NodeId] = []
    async with running_hub(probing=Probing(tmp_path, on_convicted=convicted.append)) as network:
        liar = held_back(network, fault=Fault.WRONG)
        liar.paused.set()
        await liar.join()
        reason = await until_cut_off(network, liar)
        assert "a result that it signed was wrong" in reason
        assert liar.closing is not None and not liar.closing.retry
        assert state(network, liar) == "quarantined"
        assert "off by" in network.seen(liar).reason
        assert not network.hub.directory.coverage.covered
        assert list((tmp_path / EVIDENCE_FOLDER).iterdir())
        await network.until(lambda: convicted == [liar.node], PATIENCE_S)
        await network.join_ready(None)
        assert len((await network.check(0)).nodes) == 1


@pytest.mark.parametrize(
    "fault", [Fault.NOT_A_NUMBER, Fault.INFINITE, Fault.OVERFLOWING], ids=lambda fault: fault.name
)
async def test_numbers_that_no_model_has_are_a_wrong_answer_too(tmp_path: Path, fault: Fault) -> None:
    convicted: list[NodeId] = []
    async with running_hub(probing=Probing(tmp_path, on_convicted=convicted.append)) as network:
        liar = await network.join(fault)
        await until_cut_off(network, liar)
        await network.until(lambda: convicted == [liar.node], PATIENCE_S)
        assert not network.standings.of(liar.node).serves
        assert len(list((tmp_path / EVIDENCE_FOLDER).iterdir())) == 1


async def test_where_nothing_is_audited_a_wrong_answer_is_a_fault_like_any_other(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path, audited=False), faults_before_ban=2) as network:
        liar = await network.join(Fault.WRONG)
        assert "known answer came back wrong" in await until_cut_off(network, liar)
        assert liar.closing is not None and liar.closing.retry
        again = await network.join(Fault.WRONG, identity=liar.identity)
        await until_cut_off(network, again)
        assert again.closing is not None and not again.closing.retry
        assert not (tmp_path / EVIDENCE_FOLDER).exists()
        assert not network.hub.directory.coverage.covered


async def test_an_answer_that_nobody_signed_is_rejected_like_any_other(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path)) as network:
        nobody = await network.join(Fault.NO_SIGNATURE)
        assert "signature_missing" in await until_cut_off(network, nobody)
        assert network.counters.totals().rejected["signature_missing"] >= 1
        assert not network.hub.directory.coverage.covered


async def test_a_node_that_does_not_answer_is_asked_again_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.probe.prober.LONGEST_PAUSE_S", 0.1)
    async with running_hub(
        probing=Probing(tmp_path), frame_deadline_s=0.5, misses_before_cut=1000
    ) as network:
        node = await network.join(Fault.SILENT)
        await network.until(lambda: "does not answer" in network.seen(node).reason, PATIENCE_S)
        assert state(network, node) == "probing" and "timed_out" in network.seen(node).reason
        node.fault = None
        await network.until(lambda: state(network, node) == "ready", PATIENCE_S)
        assert network.seen(node).reason == ""


async def test_what_a_node_does_not_serve_goes_to_others_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.probe.prober.LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr("folkmoot.coordinator.probe.prober.FIRST_PAUSE_S", 0.01)
    async with running_hub(probing=Probing(tmp_path), replicas=1, lost_grace_s=600.0) as network:
        stuck = await network.join(Fault.OVERLOADED)
        await network.until(lambda: len(stuck.ready) == 8, PATIENCE_S)
        willing = await network.join()
        await network.until(lambda: len(willing.ready) == 8 and network.hub.covered(), PATIENCE_S)
        assert "overloaded" in network.seen(stuck).reason
        stuck.fault = None
        await network.until(lambda: state(network, stuck) == "ready", PATIENCE_S)
        await network.until(lambda: len(stuck.ready) == len(willing.ready) == 4, PATIENCE_S)
        assert network.hub.covered()


async def test_what_is_found_out_of_a_node_that_has_gone_does_not_bring_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, looked = threading.Event(), threading.Event()
    check = Checker.check

    def slow(checker: Checker, asked: Sequence[Asked]) -> Speed | None:
        looking.set()
        assert looked.wait(PATIENCE_S)
        return check(checker, asked)

    monkeypatch.setattr(Checker, "check", slow)
    async with running_hub(probing=Probing(tmp_path)) as network:
        node = await network.join()
        await network.until(looking.is_set, PATIENCE_S)
        member = network.hub._roster.find(node.node)
        assert member is not None
        await node.leave()
        await network.until(lambda: not member.counted_on, PATIENCE_S)
        looked.set()
        prober = network.hub._prober
        assert prober is not None
        await network.until(lambda: not prober._tasks, PATIENCE_S)
        assert not member.counted_on and member.state is NodeState.LOST


async def test_a_node_that_stalled_and_then_holds_less_is_counted_on_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.probe.prober.LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr("folkmoot.coordinator.probe.prober.FIRST_PAUSE_S", 0.01)
    async with running_hub(probing=Probing(tmp_path), replicas=1) as network:
        node = await network.join(Fault.OVERLOADED)
        member = network.hub._roster.find(node.node)
        assert member is not None
        await network.until(lambda: not member.counted_on, PATIENCE_S)
        node.reports_ready = False
        node.ready.clear()
        await node.report()
        await network.until(lambda: member.counted_on, PATIENCE_S)


async def test_a_prober_that_was_stopped_asks_nobody_and_stops_again(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path)) as network:
        node = held_back(network)
        await node.join()
        await network.until(lambda: node.frames, PATIENCE_S)
        prober, member = network.hub._prober, network.hub._roster.find(node.node)
        assert prober is not None and member is not None
        await prober.stop()
        prober.look(member, network.hub._members)
        assert not prober._tasks
        await prober.stop()


async def test_that_weights_cannot_be_read_is_said_no_longer_than_it_is_so(tmp_path: Path) -> None:
    model = MemoryExperts()
    async with running_hub(model, probing=Probing(tmp_path)) as network:
        read = model.read_expert
        with pytest.MonkeyPatch.context() as failing:
            failing.setattr(model, "read_expert", UnreadableExperts().read_expert)
            node = await network.join()
            await network.until(lambda: "not probed" in network.seen(node).reason, PATIENCE_S)
        assert model.read_expert == read
        member = network.hub._roster.find(node.node)
        assert member is not None and member.cleared is not None
        kept = set(node.ready)
        node.ready = {min(kept)}
        await node.report()
        await network.until(lambda: len(member.ready) == 1, PATIENCE_S)
        node.ready = kept
        await node.report()
        await network.until(lambda: state(network, node) == "ready", PATIENCE_S)
        assert node.frames and network.seen(node).reason == ""


async def test_what_the_coordinator_cannot_read_is_let_through_and_said(tmp_path: Path) -> None:
    async with running_hub(UnreadableExperts(), probing=Probing(tmp_path)) as network:
        node = await network.join()
        await network.until(lambda: state(network, node) == "ready", PATIENCE_S)
        assert "not probed" in network.seen(node).reason
        assert network.hub.covered() and not node.frames


async def test_a_node_that_comes_back_is_asked_one_thing(tmp_path: Path) -> None:
    model = MemoryExperts(experts=16)
    async with running_hub(model, probing=Probing(tmp_path), lost_grace_s=600.0) as network:
        [node] = await network.join_ready(None)
        asked = sum(frame.hidden.shape[0] for frame in node.frames)
        assert asked == 4 * 2
        await node.leave()
        await network.until(lambda: state(network, node) == "lost", PATIENCE_S)
        again = await network.join(identity=node.identity)
        await network.until(lambda: state(network, again) == "ready", PATIENCE_S)
        assert sum(frame.hidden.shape[0] for frame in again.frames) == 2


async def test_what_a_node_was_right_about_is_remembered_over_a_restart(tmp_path: Path) -> None:
    model = MemoryExperts(experts=16)
    async with running_hub(model, probing=Probing(tmp_path)) as network:
        [node] = await network.join_ready(None)
    async with running_hub(model, probing=Probing(tmp_path)) as network:
        again = await network.join(identity=node.identity)
        await network.until(lambda: state(network, again) == "ready", PATIENCE_S)
        assert sum(frame.hidden.shape[0] for frame in again.frames) == 2


async def test_a_node_that_drains_goes_only_when_the_new_host_was_right(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path), lost_grace_s=600.0, replicas=1) as network:
        [leaver] = await network.join_ready(None)
        stayer = held_back(network)
        await stayer.join()
        await leaver.wish(Wish.DRAIN)
        await network.until(lambda: stayer.frames and state(network, stayer) == "probing", PATIENCE_S)
        assert network.hub.covered() and not leaver.may_go and len(leaver.ready) == 8
        stayer.paused.set()
        await network.until(lambda: leaver.may_go, PATIENCE_S)
        assert network.hub.covered()
        assert (await network.check(0)).nodes == {stayer.node}


async def test_a_node_that_pauses_while_it_is_tried_is_tried_again_when_it_is_back(tmp_path: Path) -> None:
    async with running_hub(probing=Probing(tmp_path), lost_grace_s=600.0) as network:
        node = held_back(network)
        await node.join()
        await network.until(lambda: node.frames, PATIENCE_S)
        await node.wish(Wish.PAUSE)
        await network.until(lambda: state(network, node) == "paused", PATIENCE_S)
        node.paused.set()
        await asyncio.to_thread(lambda: None)
        assert not network.hub.directory.coverage.covered
        await node.wish(Wish.SERVE)
        await network.until(lambda: state(network, node) == "ready", PATIENCE_S)
        assert network.hub.covered()


async def test_many_nodes_at_once_are_all_tried(tmp_path: Path) -> None:
    async with running_hub(MemoryExperts(experts=6), probing=Probing(tmp_path)) as network:
        nodes = [await network.join(memory_bytes=7 * 1536) for _ in range(6)]
        await network.until(lambda: all(state(network, node) == "ready" for node in nodes), PATIENCE_S)
        assert network.hub.covered()


@pytest.mark.parametrize("wrong", [{"experts": 0}, {"rows": 0}, {"experts": 9999}, {"busy_share": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ProbeSettings(**wrong)  # type: ignore[arg-type]
