"""The scribe, without a network: whoever hands it results never waits nor fails, credit is durable before its receipt goes out,
results of sessions that it does not know or that come too late are counted, and a fault ends neither it nor what comes after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from folkmoot.coordinator.ledger import scribe as scribe_module
from folkmoot.coordinator.ledger.scribe import Scribe
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.ids import NodeId, SessionId
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.kept_books import accounts_of, books_in, full_disk, owed
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import KeptEntries
from folkmoot.trust.keys import Identity, VerifyingKey
from folkmoot.trust.log_entries import CreditEntry, ReceiptsEntry
from folkmoot.trust.logged_receipts import LoggedReceipt
from folkmoot.trust.receipts import (
    Acknowledgement,
    CreditedResult,
    Receipt,
    ReceiptChain,
    SignedReceipt,
)

COORDINATOR = Identity(b"c" * 32)
MODEL = MemoryExperts(hidden=64, intermediate=48)
SOON = ReceiptSettings(
    results=1000, every_s=0.01, settle_s=0.02, tick_s=0.005, log_every_s=100.0, credit_every_s=100.0
)


class Desk:
    """A link as the scribe sees it."""

    def __init__(self, folder: Path) -> None:
        self.worker = AskedNode(MODEL, COORDINATOR.public)
        self.through = 0
        self.closed = False
        self.cuts: list[str] = []
        self.receipts: list[Receipt] = []
        self.proofs: list[LoggedReceipt] = []
        self.credited: list[int] = []
        self._folder = folder

    @property
    def node(self) -> NodeId:
        return self.worker.node

    @property
    def key(self) -> VerifyingKey:
        return self.worker.key

    @property
    def session(self) -> SessionId:
        return self.worker.session

    def ended_through(self) -> int:
        return self.through

    def post(self, message: link_pb2.CoordinatorMessage) -> bool:
        """Notes a receipt, and what is durable by then."""
        if self.closed:
            return False
        if message.HasField("receipt"):
            self.receipts.append(Receipt.decode(message.receipt.statement))
            self.credited.append(owed(self._folder)[self.node].results)

        if message.HasField("logged_receipt"):
            self.proofs.append(LoggedReceipt.decode(message.logged_receipt.logged))
        return True

    def cut(self, reason: str, *, retry: bool) -> None:
        self.cuts.append(reason)


@asynccontextmanager
async def scribing(
    folder: Path, log: KeptEntries | None = None, settings: ReceiptSettings = SOON
) -> AsyncIterator[tuple[Scribe, Desk]]:
    with books_in(folder) as books:
        scribe = Scribe(books.receipts, MODEL.manifest, COORDINATOR, log or KeptEntries(), settings)
        scribe.start()
        try:
            yield scribe, Desk(folder)
        finally:
            await scribe.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.002)


async def test_credit_is_on_the_disk_before_its_receipt_goes_out(tmp_path: Path) -> None:
    async with scribing(tmp_path) as (scribe, desk):
        scribe.attached(desk)
        for seed in range(3):
            for _ in range(4):
                scribe.watch(desk.worker.result(seed=seed))
            desk.through += 4
            await until(lambda: sum(one.count for one in desk.receipts) == desk.through)
        assert desk.credited == [one.total for one in desk.receipts]
        assert desk.receipts[-1].row_bytes == owed(tmp_path)[desk.node].row_bytes


async def test_results_of_no_session_or_that_come_too_late_are_counted(tmp_path: Path) -> None:
    async with scribing(tmp_path) as (scribe, desk):
        scribe.watch(desk.worker.result())
        await until(lambda: scribe.counters.late == 1)
        scribe.attached(desk)
        late = desk.worker.result()
        scribe.watch(desk.worker.result())
        desk.through = 3
        await until(lambda: desk.receipts)
        scribe.watch(late)
        await until(lambda: scribe.counters.late == 2)
        assert scribe.counters.results == 1
        assert scribe.counters.omitted == 2


async def test_what_does_not_fit_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribe_module, "MOST_WAITING", 3)
    async with scribing(tmp_path) as (scribe, desk):
        await scribe.close()
        for _ in range(5):
            scribe.watch(desk.worker.result())
        assert scribe.counters.dropped == 2


async def test_no_receipt_goes_out_while_the_books_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Results go on being accepted; nothing is lost, and nothing is told twice."""
    async with scribing(tmp_path) as (scribe, desk):
        scribe.attached(desk)
        with full_disk(monkeypatch):
            for _ in range(6):
                scribe.watch(desk.worker.result())
                desk.through += 1
            await until(lambda: "not recorded yet" in caplog.text)
            await until(lambda: not scribe._accepted)
            assert not desk.receipts
            assert owed(tmp_path) == {}
        await until(lambda: desk.receipts and desk.receipts[-1].total == 6)
        assert desk.credited == [one.total for one in desk.receipts]
    assert owed(tmp_path)[desk.node].results == 6
    assert "are written again" in caplog.text


async def test_what_was_given_up_for_full_books_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe_module, "MOST_HELD", 2)
    async with scribing(tmp_path) as (scribe, desk):
        with full_disk(monkeypatch):
            scribe.attached(desk)
            scribe.watch(desk.worker.result())
            desk.through = 1
            await until(lambda: scribe._writing)
            gone = Desk(tmp_path)
            scribe.attached(gone)
            for _ in range(3):
                scribe.watch(gone.worker.result())
            gone.through = 3
            scribe.left(gone)
            await until(lambda: scribe.counters.dropped == 3)
        await until(lambda: desk.receipts)
    assert owed(tmp_path).keys() == {desk.node}


async def test_a_node_that_is_back_gets_what_it_could_not_get_before(tmp_path: Path) -> None:
    """Its link was lost, and then the coordinator was killed, right after its receipt was in the books."""
    quick = ReceiptSettings(every_s=0.01, settle_s=0.01, tick_s=0.005, log_every_s=0.02)
    desk = Desk(tmp_path)
    with books_in(tmp_path) as books:
        chain = ReceiptChain(COORDINATOR.public, desk.key.raw, desk.session, MODEL.manifest.digest)
        receipt = chain.next(None, [CreditedResult(1, b"l" * 32, 2, 30)], 1, int(time.time()))
        books.receipts.receipted(SignedReceipt.signed(receipt, COORDINATOR), 1, 2, 30)
    log = KeptEntries()
    async with scribing(tmp_path, log, quick) as (scribe, back):
        back.worker = desk.worker
        await until(lambda: scribe.counters.batches == 1)
        scribe.attached(back)
        await until(lambda: back.proofs)
        assert [proof.signed.receipt for proof in back.proofs] == [receipt]
        assert [type(entry.statement) for entry in log.entries] == [ReceiptsEntry]
    # It has not agreed with the receipt, so nobody knows that it got it.
    async with scribing(tmp_path, KeptEntries(), quick) as (scribe, again):
        again.worker = desk.worker
        scribe.attached(again)
        await until(lambda: again.proofs)
        assert again.proofs == back.proofs
        assert scribe.counters.batches == 0
    assert [one.shown for one in accounts_of(tmp_path)] == [1]


async def test_a_proof_that_no_link_took_was_not_sent(tmp_path: Path) -> None:
    quick = ReceiptSettings(every_s=0.01, settle_s=0.01, tick_s=0.005, log_every_s=0.02)
    async with scribing(tmp_path, KeptEntries(), quick) as (scribe, desk):
        scribe.attached(desk)
        desk.closed = True
        scribe.watch(desk.worker.result())
        desk.through = 1
        await until(lambda: scribe.counters.batches == 1)
    assert [(one.logged, one.shown) for one in accounts_of(tmp_path)] == [(1, 0)]


async def test_nodes_that_come_and_go_while_the_books_cannot_be_written_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scribing(tmp_path) as (scribe, desk):
        with full_disk(monkeypatch):
            scribe.attached(desk)
            scribe.watch(desk.worker.result())
            desk.through = 1
            await until(lambda: scribe._writing is not None)
            for _ in range(20):
                passing = Desk(tmp_path)
                scribe.attached(passing)
                scribe.left(passing)
            await until(lambda: scribe._open.keys() == {desk.session})
            assert len(scribe._book._writer._kept) + len(scribe._book._writer._waiting) <= 2
        await until(lambda: desk.receipts)
        await until(lambda: not scribe._returned)


async def test_a_fault_ends_neither_the_scribe_nor_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with scribing(tmp_path) as (scribe, desk):
        scribe.attached(desk)
        with monkeypatch.context() as broken:
            broken.setattr(scribe._batches, "tick", None)
            await until(lambda: "a fault kept receipts back" in caplog.text)
        scribe.watch(desk.worker.result())
        desk.through = 1
        await until(lambda: desk.receipts)


async def test_only_an_agreement_with_what_was_given_counts(tmp_path: Path) -> None:
    async with scribing(tmp_path) as (scribe, desk):
        scribe.attached(desk)
        scribe.watch(desk.worker.result())
        desk.through = 1
        await until(lambda: desk.receipts)
        statement = Acknowledgement(desk.receipts[0].digest())
        signature = desk.worker.identity.sign(statement.encode())
        scribe.acknowledged(desk, link_pb2.Acknowledgement(receipt=statement.receipt, signature=signature))
        await until(lambda: scribe.counters.acknowledged == 1)
        scribe.acknowledged(desk, link_pb2.Acknowledgement(receipt=bytes(32), signature=signature))
        await until(lambda: desk.cuts)
        assert scribe.counters.refused == 1


async def test_the_books_are_closed_at_the_end(tmp_path: Path) -> None:
    log = KeptEntries()
    async with scribing(tmp_path, log) as (scribe, desk):
        scribe.attached(desk)
        for _ in range(5):
            scribe.watch(desk.worker.result())
    assert owed(tmp_path)[desk.node].results == 5
    credits = [entry.statement for entry in log.entries if isinstance(entry.statement, CreditEntry)]
    assert [credit.results for credit in credits] == [5]


async def test_a_log_that_fails_is_counted_and_receipts_go_on(tmp_path: Path) -> None:
    log = KeptEntries()
    log.error = OSError(5, "the disk is gone")
    quick = ReceiptSettings(every_s=0.01, settle_s=0.01, tick_s=0.005, log_every_s=0.02, credit_every_s=0.02)
    with books_in(tmp_path) as books:
        scribe = Scribe(books.receipts, MODEL.manifest, COORDINATOR, log, quick)
        scribe.start()
        desk = Desk(tmp_path)
        try:
            scribe.attached(desk)
            scribe.watch(desk.worker.result())
            desk.through = 1
            await until(lambda: scribe.counters.unlogged >= 2)
            assert desk.receipts
            log.error = None
            await until(lambda: scribe.counters.batches == 1)
        finally:
            await scribe.close()
