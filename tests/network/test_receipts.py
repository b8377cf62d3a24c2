"""Receipts over the real wire: what honest nodes hold balances with the coordinator's books, a coordinator that lies in a receipt is
found by the node, a node that is lost and back begins a new chain, and nothing slows when receipts stall."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from folkmoot.cli.main import run
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.ledger import scribe
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.models.local import LocalExperts
from folkmoot.models.trunk import Trunk
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.receipt_folder import ReceiptFolder
from folkmoot.node.receipt_keeper import ReceiptKeeper
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.kept_books import owed
from folkmoot.tests.support.lying_book import Lie, LyingBook
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import running_node, until
from folkmoot.tests.support.trunk_runner import greedy, random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import Acknowledgement, Receipt

NEW_TOKENS = 8
PROMPT = random_tokens(12, 3)
SOON = ReceiptSettings(
    results=16, every_s=0.05, settle_s=0.1, tick_s=0.02, log_every_s=0.1, credit_every_s=0.1
)
QUICK: dict[str, Any] = {"receipts": SOON}


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@pytest.fixture(scope="module")
def expected(model: TinyModel) -> list[int]:
    """What one machine answers."""
    return greedy(Trunk.load(model.prepared), LocalExperts(model.prepared), PROMPT, NEW_TOKENS)


async def ask(network: WholeNetwork) -> list[int]:
    """One greedy answer."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    generation = network.coordinator.engine.submit(PROMPT.tolist(), sampling)
    return [token async for delta in generation for token in delta.token_ids]


def verified(network: WholeNetwork, node: NodeDaemon) -> int:
    """How many results of a node the coordinator has accepted."""
    return next(
        one.results_verified for one in network.coordinator.hub.snapshot().nodes if one.id == node.node_id
    )


def kept(node: NodeDaemon) -> list[Receipt]:
    """The newest receipt of each of a node's sessions, the oldest first."""
    sessions = list(ReceiptFolder(node.settings.state_dir).sessions())
    assert not [one.error for one in sessions if one.error]
    return [one.newest.receipt for one in sessions if one.newest is not None]


def credit(folder: Path, node: NodeDaemon) -> Credit:
    """What the coordinator's book has for a node."""
    return owed(folder / "operator").get(node.node_id, Credit())


def balanced(network: WholeNetwork, node: NodeDaemon, folder: Path) -> bool:
    """Whether the node has agreed with a receipt for all that was accepted of it, and the coordinator knows."""
    results = verified(network, node)
    return (
        results > 0
        and node.receipts.results == results == credit(folder, node).results
        and sum(receipt.total for receipt in kept(node)) == results
    )


def has_proof(node: NodeDaemon) -> bool:
    """Whether a receipt of the node's is known to stand in the public log."""
    return node.receipts.logged > 0


async def test_an_honest_nodes_receipts_balance_with_the_coordinators_books(
    model: TinyModel, expected: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, **QUICK) as network:
        for _ in range(3):
            assert await ask(network) == expected
            # What comes after a receipt needs another one.
            await until(
                lambda: all(
                    not verified(network, one) or balanced(network, one, tmp_path) for one in network.nodes
                )
            )
        for node in network.nodes:
            await until(partial(balanced, network, node, tmp_path))
            (receipt,) = kept(node)
            earned = credit(tmp_path, node)
            assert (receipt.rows, receipt.row_bytes) == (earned.rows, earned.row_bytes)
            assert receipt.number > 1
            await until(partial(has_proof, node))
            assert node.receipts.disputed == node.receipts.omitted == 0
            url = ["--url", network.coordinator.api_url]
            held = ["node", "receipts", "--state", str(node.settings.state_dir)]
            assert await asyncio.to_thread(run, held + url) == 0
            assert "and is there" in capsys.readouterr().out
        counters = network.coordinator._scribe.counters  # type: ignore[union-attr]
        await until(lambda: counters.acknowledged == counters.issued)
        assert counters.results == sum(verified(network, node) for node in network.nodes)
        assert counters.late == counters.dropped == counters.refused == counters.unlogged == 0
        async with httpx.AsyncClient(base_url=network.coordinator.api_url, timeout=60) as client:
            board = (await client.get("/v1/leaderboard")).json()
        assert sorted((one["name"], one["results"]) for one in board["contributors"]) == sorted(
            (node.settings.name, verified(network, node)) for node in network.nodes
        )
        visit = ["log", "verify", network.coordinator.api_url, "--state", str(tmp_path), "--entries"]
        credits = [
            f"credit of node {node.node_id[:12]}: {verified(network, node)} results" for node in network.nodes
        ]
        async with asyncio.timeout(60):
            said = ""
            while not all(line in said for line in credits):
                assert await asyncio.to_thread(run, [*visit, "--complete"]) == 0
                said = capsys.readouterr().out
        assert "2 enrolments" in said
        assert "batches of receipts" in said


@pytest.mark.parametrize("lie", Lie, ids=lambda lie: lie.name)
async def test_a_coordinator_that_lies_in_a_receipt_is_found_by_the_node(
    lie: Lie,
    model: TinyModel,
    expected: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(LyingBook, "lie", lie)
    monkeypatch.setattr(scribe, "SessionBook", LyingBook)
    with caplog.at_level(logging.ERROR):
        async with whole_network(model.prepared, tmp_path, nodes=1, **QUICK) as network:
            (node,) = network.nodes
            assert await ask(network) == expected
            async with asyncio.timeout(60):
                while not node.receipts.disputed:
                    assert await ask(network) == expected
            disputed = ReceiptFolder(node.settings.state_dir).disputed()
            assert disputed
            (receipt,) = kept(node)
            assert receipt.number == 1
            assert node.receipts.results == receipt.total
            counters = network.coordinator._scribe.counters  # type: ignore[union-attr]
            await until(lambda: counters.acknowledged > 0)
            assert await ask(network) == expected
            assert counters.acknowledged == 1
    assert any("books are not this node's" in record.message for record in caplog.records)


async def test_a_node_that_is_lost_and_back_begins_a_new_chain(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=1, **QUICK) as network:
        (node,) = network.nodes
        assert await ask(network) == expected
        await until(lambda: balanced(network, node, tmp_path))
        first = kept(node)
        assert node._living is not None
        node._living.cancel()
        await asyncio.wait({node._living})
        node._started.state.close()
        async with running_node(network.coordinator.invite, node.settings.state_dir) as again:
            network.nodes[:] = [again]
            await network.settled(1)
            before = verified(network, again)
            assert await ask(network) == expected
            await until(lambda: again.receipts.results == verified(network, again) - before > 0)
            second = [receipt for receipt in kept(again) if receipt.session != first[0].session]
            assert len(second) == 1
            assert second[0].total == again.receipts.results
            assert [receipt for receipt in kept(again) if receipt.session == first[0].session] == first
            earned = credit(tmp_path, again)
            assert earned.row_bytes == first[0].row_bytes + second[0].row_bytes
            assert again.receipts.disputed == 0


async def test_the_last_receipt_of_a_session_waits_for_the_node(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    """No receipt was due when the link was lost; the node gets it, and the proof, when it is back."""
    late = dataclasses.replace(SOON, results=4096, every_s=1000.0)
    async with whole_network(model.prepared, tmp_path, nodes=1, receipts=late) as network:
        (node,) = network.nodes
        assert await ask(network) == expected
        assert node._living is not None
        node._living.cancel()
        await asyncio.wait({node._living})
        node._started.state.close()
        assert kept(node) == []
        results = verified(network, node)
        await until(lambda: credit(tmp_path, node).results == results)
        async with running_node(network.coordinator.invite, node.settings.state_dir) as again:
            await until(partial(has_proof, again))
            (receipt,) = kept(again)
            assert receipt.total == results
            network.nodes[:] = [again]
            await network.settled(1)
            assert await ask(network) == expected
            accepted = verified(network, again)
            assert accepted > results
    assert credit(tmp_path, node).results == accepted, "a coordinator that stops closes its books first"


@pytest.mark.parametrize("claim", ["work not done", "another's signature"])
async def test_what_a_node_was_not_given_it_cannot_claim(
    claim: str, model: TinyModel, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Identity.generate()

    def claimed(keeper: ReceiptKeeper, receipt: Receipt) -> link_pb2.NodeMessage:
        signer = keeper._session.identity
        if claim == "work not done":
            receipt = dataclasses.replace(receipt, total=receipt.total + 1000, row_bytes=10**15)
        else:
            signer = stranger
        statement = Acknowledgement(receipt.digest())
        message = link_pb2.Acknowledgement(
            receipt=statement.receipt, signature=signer.sign(statement.encode())
        )
        return link_pb2.NodeMessage(acknowledgement=message)

    monkeypatch.setattr(ReceiptKeeper, "_acknowledgement", claimed)
    async with whole_network(model.prepared, tmp_path, nodes=1, **QUICK) as network:
        (node,) = network.nodes
        assert await ask(network) == expected
        counters = network.coordinator._scribe.counters  # type: ignore[union-attr]
        await until(lambda: counters.refused > 0)
        assert counters.acknowledged == 0
        await until(lambda: credit(tmp_path, node).results == verified(network, node))
        await network.settled(1)
        assert await ask(network) == expected


async def test_nothing_waits_for_receipts_that_stall(
    model: TinyModel, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's disk hangs, then the node's: answers go on, and once the disks do, so do receipts."""
    ledger, contributor, stuck = threading.Event(), threading.Event(), threading.Event()
    write, keep = Database.write, ReceiptFolder.keep
    hangs = threading.Event()

    def slow_write(database: Database, work: Any, **options: Any) -> Any:
        assert not hangs.is_set() or ledger.wait(30)
        return write(database, work, **options)

    def slow_keep(folder: ReceiptFolder, *arguments: Any) -> None:
        stuck.set()
        assert contributor.wait(30)
        keep(folder, *arguments)

    monkeypatch.setattr(Database, "write", slow_write)
    monkeypatch.setattr(ReceiptFolder, "keep", slow_keep)
    async with whole_network(model.prepared, tmp_path, nodes=1, **QUICK) as network:
        (node,) = network.nodes
        hangs.set()
        try:
            for _ in range(3):
                assert await ask(network) == expected
            assert node.receipts.agreed == 0
            ledger.set()
            await until(stuck.is_set)
            for _ in range(3):
                assert await ask(network) == expected
            assert node.receipts.agreed == 0
        finally:
            ledger.set()
            contributor.set()
        await until(lambda: balanced(network, node, tmp_path))
        assert node.receipts.disputed == 0
