"""A coordinator that restarts gives every node what it had, and a damaged memory costs nothing but downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.placement_memory import Remembered
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.tables import holdings
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.tests.support.kept_books import full_disk
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode
from folkmoot.trust.keys import Identity

OpenBooks = Callable[[], Books]
NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
KNOWN = {NODE: Remembered(12345, frozenset({ExpertKey(0, 1), ExpertKey(1, 3)}))}


async def saved(books: Books) -> None:
    async with asyncio.timeout(60):
        while books.writer.waiting:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.01)


async def assigned(network: RunningHub, node: ScriptedNode) -> None:
    await network.until(lambda: node.assigned)


def test_what_was_saved_is_there_again(open_books: OpenBooks) -> None:
    manifest = MemoryExperts().manifest
    books = open_books()
    memory = books.placement(manifest)
    assert memory.load() == {}
    memory.save(KNOWN)
    memory.save(KNOWN | {OTHER: Remembered(7, frozenset())})
    memory.save({NODE: KNOWN[NODE]})
    books.close()
    assert open_books().placement(manifest).load() == KNOWN


def test_another_models_placement_is_not_taken(open_books: OpenBooks) -> None:
    books = open_books()
    books.placement(MemoryExperts().manifest).save(KNOWN)
    books.close()
    assert open_books().placement(MemoryExperts(seed=1).manifest).load() == {}


@pytest.mark.parametrize("experts", ["", "[]", "{", '{"0": 3}', '{"x": [1]}', "null"])
def test_what_makes_no_sense_is_passed_over(
    experts: str, settings: BooksSettings, open_books: OpenBooks, tmp_path: Path
) -> None:
    manifest = MemoryExperts().manifest
    books = open_books()
    books.placement(manifest).save(KNOWN)
    books.close()
    database = Database(settings, tmp_path)
    database.write_beside(lambda connection: connection.execute(update(holdings).values(experts=experts)))
    database.close()
    assert open_books().placement(manifest).load() == {}


def test_books_that_cannot_be_written_are_no_error(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = books.placement(MemoryExperts().manifest)
    with full_disk(monkeypatch):
        memory.save(KNOWN)


async def test_after_a_restart_every_node_is_told_what_it_was_told_before(books: Books) -> None:
    model = MemoryExperts(experts=6)
    memory = books.placement(model.manifest)
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


async def test_nodes_that_do_not_come_back_are_given_up(books: Books) -> None:
    model = MemoryExperts(experts=6)
    memory = books.placement(model.manifest)
    everything = frozenset(model.manifest.experts)
    memory.save({NODE: Remembered(1 << 30, everything), OTHER: Remembered(1 << 30, everything)})
    await saved(books)
    async with running_hub(model, memory=memory, restart_grace_s=0.3) as network:
        node = await network.join()
        await network.until(lambda: set(node.assigned) == everything)


async def test_a_node_that_enrols_and_never_attaches_is_given_up_like_others(books: Books) -> None:
    model = MemoryExperts(experts=6)
    memory = books.placement(model.manifest)
    everything = frozenset(model.manifest.experts)
    identity = Identity.generate()
    memory.save(
        {
            identity.node_id: Remembered(1 << 30, everything),
            OTHER: Remembered(1 << 30, everything),
        }
    )
    await saved(books)
    async with running_hub(model, memory=memory, restart_grace_s=0.3, replicas=1) as network:
        halfway = ScriptedNode(network.hub.invite, model, identity=identity)
        network.nodes.append(halfway)
        await halfway.enrol()
        node = await network.join()
        await network.until(lambda: set(node.assigned) == everything)


async def test_after_a_restart_a_node_that_comes_and_is_lost_is_waited_for_like_any_other(
    books: Books,
) -> None:
    model = MemoryExperts(experts=6)
    memory = books.placement(model.manifest)
    identity = Identity.generate()
    memory.save({identity.node_id: Remembered(1 << 30, frozenset(model.manifest.experts))})
    await saved(books)
    async with running_hub(model, memory=memory, restart_grace_s=1.0, lost_grace_s=600.0) as network:
        began_s = asyncio.get_running_loop().time()
        node = await network.join(identity=identity)
        await node.leave()
        member = network.hub._roster.find(node.node)
        assert member is not None
        await network.until(lambda: member.link is None)
        await network.until(lambda: asyncio.get_running_loop().time() > began_s + 1.5)
        assert member.counted_on
