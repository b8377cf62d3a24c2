"""A node that leaves is let go at once: neither side waits out its patience with the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.running_node import until
from folkmoot.tests.support.whole_network import whole_network


async def test_the_link_ends_when_the_goodbye_was_heard(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.hub.attaching.LAST_WORDS_S", 600.0)
    async with whole_network(tiny_models.get("mixtral").prepared, tmp_path, nodes=0) as network:
        node = await network.join(leave_timeout_s=600.0)
        await network.settled(1)
        async with asyncio.timeout(20):
            await node.stop()
        (member,) = network.coordinator.hub.snapshot().nodes
        assert (member.state.value, member.reason) == ("lost", "left: the contributor stopped it")


async def test_a_coordinator_that_stops_lets_its_nodes_go(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.coordinator.hub.attaching.LAST_WORDS_S", 600.0)
    monkeypatch.setattr("folkmoot.coordinator.hub.hub.STOP_GRACE_S", 600.0)
    async with whole_network(tiny_models.get("mixtral").prepared, tmp_path, nodes=2) as network:
        async with asyncio.timeout(20):
            await network.coordinator.stop()
        await until(lambda: all(node.state == "lost" for node in network.nodes))
