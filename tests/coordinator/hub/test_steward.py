"""Assignments on a live hub: coverage stays whole while experts move, lost nodes are replaced, returning ones restored,
refusals respected."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from folkmoot.coordinator.hub import steward
from folkmoot.coordinator.hub.outlook import Measured, Outlook
from folkmoot.coordinator.placement.place import place
from folkmoot.coordinator.placement.usage import ENOUGH_ROWS
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub

EXPERT_BYTES = 3 * 16 * 8 * 4


async def watch_coverage(network: RunningHub) -> None:
    """Fails as soon as an expert that had a host has none."""
    while True:
        assert network.hub.covered(), "coverage shrank while experts moved"
        await asyncio.sleep(0.001)


async def test_two_nodes_hold_everything_and_a_third_takes_its_share() -> None:
    async with running_hub(MemoryExperts(layers=(0, 1, 2), experts=4)) as network:
        first, second = await network.join_ready(None, None)
        everything = set(network.model.manifest.experts)
        assert first.ready == second.ready == everything
        third = await network.join(reports_ready=False)
        watch = asyncio.create_task(watch_coverage(network))
        await network.until(lambda: third.assigned)
        assert len(third.assigned) == 8
        assert set(first.assigned) == set(second.assigned) == everything, "nobody drops before it is ready"
        for key in list(third.assigned):
            third.ready.add(key)
            await third.report()
            await network.check(0)
        await network.until(lambda: len(first.assigned) == len(second.assigned) == 8)
        await network.settled()
        replicated = network.hub.snapshot().coverage.replicated
        assert replicated == len(everything)
        assert not watch.done()
        watch.cancel()


async def test_frames_go_to_an_expert_only_while_it_is_ready_and_wanted() -> None:
    async with running_hub() as network:
        node = await network.join(reports_ready=False)
        await network.until(lambda: node.assigned)
        assert not network.hub.covered()
        node.ready = {ExpertKey(0, expert) for expert in range(4)}
        await node.report()
        await network.until(lambda: network.seen(node).experts == 4)
        assert network.seen(node).state == "downloading"
        await network.check(0)
        node.ready = set(node.assigned)
        await node.report()
        await network.settled()
        await network.check(1)


async def test_a_lost_nodes_experts_are_placed_elsewhere_after_the_grace() -> None:
    async with running_hub(MemoryExperts(experts=6), lost_grace_s=0.3) as network:
        nodes = await network.join_ready(None, None, None)
        await network.until(lambda: sum(len(node.assigned) for node in nodes) == 24)
        before = set(nodes[2].assigned)
        await nodes[2].leave()
        await network.until(lambda: network.seen(nodes[2]).state == "lost")
        assert len(nodes[0].assigned) + len(nodes[1].assigned) == 24 - len(before), "not before the grace"
        await network.until(lambda: len(nodes[0].assigned) == len(nodes[1].assigned) == 12)
        await network.settled()
        assert network.hub.snapshot().coverage.replicated == 12
        back = await network.join(identity=nodes[2].identity)
        await network.until(lambda: set(back.assigned) == before)
        await network.until(lambda: len(nodes[0].assigned) + len(nodes[1].assigned) == 24 - len(before))


async def test_a_node_that_is_back_within_the_grace_changes_nothing() -> None:
    async with running_hub(MemoryExperts(experts=6), lost_grace_s=30.0) as network:
        nodes = await network.join_ready(None, None, None)
        await network.until(lambda: sum(len(node.assigned) for node in nodes) == 24)
        epochs = [node.epoch for node in nodes[:2]]
        before = set(nodes[2].assigned)
        await nodes[2].leave()
        await network.until(lambda: network.seen(nodes[2]).state == "lost")
        back = await network.join(identity=nodes[2].identity)
        await network.settled()
        assert set(back.assigned) == before
        assert [node.epoch for node in nodes[:2]] == epochs


async def test_no_node_is_told_to_hold_more_than_it_lends() -> None:
    async with running_hub(MemoryExperts(experts=6)) as network:
        small, large = await network.join_ready(None, None, memory_bytes=7 * EXPERT_BYTES)
        await network.until(lambda: len(small.assigned) == len(large.assigned) == 7)
        assert network.hub.covered()


async def test_what_a_node_refuses_goes_to_others() -> None:
    async with running_hub(MemoryExperts(experts=6), lost_grace_s=30.0) as network:
        picky = await network.join(reports_ready=False)
        await network.until(lambda: len(picky.assigned) == 12)
        refused = [key.expert for key in picky.assigned if key.layer == 1]
        holdings = link_pb2.Holdings(
            epoch=picky.epoch,
            ready=[link_pb2.ExpertRange(layer=0, experts=range(6))],
            refused=[link_pb2.ExpertRange(layer=1, experts=refused)],
            reason="no\x00room\n on disk",
        )
        await picky.send(link_pb2.NodeMessage(holdings=holdings))
        await network.until(lambda: network.seen(picky).state.value == "ready")
        assert "room on disk" in network.seen(picky).reason
        await network.until(lambda: {key.layer for key in picky.assigned} == {0})
        willing = await network.join()
        await network.until(lambda: set(willing.ready) == set(network.model.manifest.experts))
        await network.settled()
        assert {key.layer for key in picky.assigned} == {0}


async def test_whole_layers_of_a_sliced_model_stay_on_a_node() -> None:
    async with running_hub(MemoryExperts(layers=tuple(range(6)), experts=4, sliced=True)) as network:
        nodes = await network.join_ready(None, None, None)
        await network.until(lambda: sum(len(node.assigned) for node in nodes) == 48)
        for node in nodes:
            layers = [key.layer for key in node.assigned]
            assert {layers.count(layer) for layer in set(layers)} == {4}
        tally = await network.check(0)
        assert tally.results_verified == 1, "one frame serves the whole layer"


class Failing:
    """Calls a function, but for the first few times, which fail."""

    def __init__(self, function: Any, times: int) -> None:
        self._function = function
        self.times = times

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Fails, or calls it."""
        if self.times:
            self.times -= 1
            raise ZeroDivisionError("a fault that nobody foresaw")
        return self._function(*arguments, **keywords)


async def test_placement_goes_on_after_faults(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(steward, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("folkmoot.coordinator.hub.steward.place", Failing(place, 3))
    async with running_hub() as network:
        await network.join_ready(None)
        await network.check(0)
    pauses = [record.args for record in caplog.records if "placement failed" in record.message]
    assert pauses == [(0.01,), (0.02,), (0.04,)]
    assert "a fault that nobody foresaw" in caplog.text


async def test_a_node_is_told_again_what_a_fault_may_have_kept_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault strikes when the steward has noted what the node holds, and has not told it yet."""
    monkeypatch.setattr(steward, "FIRST_PAUSE_S", 0.01)
    async with running_hub() as network:
        update = Failing(network.hub.directory.update, 1)
        monkeypatch.setattr(network.hub.directory, "update", update)
        node = await network.join(reports_ready=False)
        await network.until(lambda: set(node.assigned) == set(network.model.manifest.experts))
        assert update.times == 0


async def test_a_popular_expert_gets_more_hosts_once_traffic_shows_it() -> None:
    async with running_hub(MemoryExperts(layers=(0, 1), experts=8), replan_s=0.05) as network:
        nodes = await network.join_ready(None, None, None, None)
        await network.until(lambda: sum(len(node.ready) for node in nodes) == 32)
        popular = {ExpertKey(0, 0), ExpertKey(1, 0)}
        assert all(sum(key in node.ready for node in nodes) == 2 for key in popular)
        watch = asyncio.create_task(watch_coverage(network))
        usage = network.hub.usage
        assert usage is not None
        rows = np.array([[0, 1 + other] for other in range(7)] * 4, np.int64)
        for layer in (0, 1):
            for _ in range(ENOUGH_ROWS // len(rows) + 1):
                usage.note(layer, rows)
        await network.until(lambda: all(all(key in node.ready for node in nodes) for key in popular))
        await network.settled()
        assert network.hub.snapshot().coverage.replicated == 16
        for layer in (0, 1):
            await network.check(layer)
        assert not watch.done()
        watch.cancel()


async def test_looking_at_what_was_measured_moves_nothing_while_nothing_has_changed() -> None:
    async with running_hub(MemoryExperts(experts=8), replan_s=0.02, tidy_share=1.0) as network:
        nodes = await network.join_ready(None, None, None)
        await network.until(lambda: sum(len(node.assigned) for node in nodes) == 32)
        epochs = [node.epoch for node in nodes]
        looks = 0
        look = Outlook.look

        def counted(outlook: Outlook, measured: Mapping[NodeId, Measured]) -> None:
            nonlocal looks
            looks += 1
            look(outlook, measured)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outlook, "look", counted)
            for turn in range(10):
                await network.check(turn % 2, seed=turn)
            await network.until(lambda: looks >= 5)
        assert [node.epoch for node in nodes] == epochs
