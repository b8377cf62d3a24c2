"""A coordinator that restarts gives every node what it had, and a damaged memory costs nothing but downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.coordinator.hub.placement_memory import PLACEMENT_FILE, PlacementMemory, Remembered
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode

NODE = NodeId("ab" * 32)
KNOWN = {NODE: Remembered(12345, frozenset({ExpertKey(0, 1), ExpertKey(1, 3)}))}


async def assigned(network: RunningHub, node: ScriptedNode) -> None:
    await network.until(lambda: node.assigned)


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    manifest = MemoryExperts().manifest
    memory = PlacementMemory(tmp_path, manifest)
    assert memory.load() == {}
    memory.save(KNOWN)
    assert PlacementMemory(tmp_path, manifest).load() == KNOWN
    assert [path.name for path in tmp_path.iterdir()] == [PLACEMENT_FILE]


def test_another_models_placement_is_not_taken(tmp_path: Path) -> None:
    PlacementMemory(tmp_path, MemoryExperts().manifest).save(KNOWN)
    assert PlacementMemory(tmp_path, MemoryExperts(seed=1).manifest).load() == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("ab" * 32, "zz" * 32),
        lambda text: text.replace("ab" * 32, "ab"),
        lambda text: text.replace("12345", "null"),
        lambda text: text.replace("[3]", "3"),
        lambda text: "\x00\xff",
    ],
)
def test_a_damaged_file_is_passed_over(tmp_path: Path, change: Callable[[str], str]) -> None:
    memory = PlacementMemory(tmp_path, MemoryExperts().manifest)
    memory.save(KNOWN)
    path = tmp_path / PLACEMENT_FILE
    path.write_text(change(path.read_text()))
    assert memory.load() == {}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    PlacementMemory(tmp_path / "missing", MemoryExperts().manifest).save(KNOWN)


async def test_after_a_restart_every_node_is_told_what_it_was_told_before(tmp_path: Path) -> None:
    model = MemoryExperts(experts=6)
    memory = PlacementMemory(tmp_path, model.manifest)
    async with running_hub(model, memory=memory) as network:
        nodes = await network.join_ready(None, None, None)
        await network.until(lambda: sum(len(node.assigned) for node in nodes) == 24)
        before = {node.node: set(node.assigned) for node in nodes}
        await network.until(
            lambda: {node: set(known.assigned) for node, known in memory.load().items()} == before
        )
    async with running_hub(model, memory=memory, restart_grace_s=30.0) as network:
        assert network.hub.snapshot().nodes == (), "who has not come back is not shown"
        for node in reversed(nodes):
            again = await network.join(identity=node.identity)
            await assigned(network, again)
            assert set(again.assigned) == before[again.node]
            assert again.epoch == 1
        await network.settled()


async def test_nodes_that_do_not_come_back_are_given_up(tmp_path: Path) -> None:
    model = MemoryExperts(experts=6)
    memory = PlacementMemory(tmp_path, model.manifest)
    everything = frozenset(model.manifest.experts)
    memory.save({NODE: Remembered(1 << 30, everything), NodeId("cd" * 32): Remembered(1 << 30, everything)})
    async with running_hub(model, memory=memory, restart_grace_s=0.3) as network:
        node = await network.join()
        await network.until(lambda: set(node.assigned) == everything)
