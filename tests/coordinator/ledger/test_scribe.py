"""The scribe, without a network: whoever hands it results never waits nor fails, credit is on the disk before its receipt goes out,
results of sessions that it does not know or that come too late are counted, and a fault ends neither it nor what comes after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from folkmoot.coordinator.ledger import scribe as scribe_module
from folkmoot.coordinator.ledger.credit_book import CREDIT_FILE, CreditBook, read_credits
from folkmoot.coordinator.ledger.scribe import Scribe
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.ids import NodeId, SessionId
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import KeptEntries
from folkmoot.trust.keys import Identity, VerifyingKey
from folkmoot.trust.log_entries import CreditEntry
from folkmoot.trust.receipts import Acknowledgement, Receipt

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
        self.cuts: list[str] = []
        self.receipts: list[Receipt] = []
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

    def post(self, message: link_pb2.CoordinatorMessage) -> None:
        """Notes a receipt, and what is on the disk by then."""
        if message.HasField("receipt"):
            self.receipts.append(Receipt.decode(message.receipt.statement))
            self.credited.append(read_credits(self._folder / CREDIT_FILE)[self.node].results)

    def cut(self, reason: str, *, retry: bool) -> None:
        self.cuts.append(reason)


@asynccontextmanager
async def scribing(folder: Path, log: KeptEntries | None = None) -> AsyncIterator[tuple[Scribe, Desk]]:
    scribe = Scribe(folder, MODEL.manifest, COORDINATOR, log or KeptEntries(), SOON)
    scribe.start()
    try:
        yield scribe, Desk(folder)
    finally:
        await scribe.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
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
        assert desk.receipts[-1].row_bytes == read_credits(tmp_path / CREDIT_FILE)[desk.node].row_bytes


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
    scribe = Scribe(tmp_path, MODEL.manifest, COORDINATOR, KeptEntries(), SOON)
    desk = Desk(tmp_path)
    for _ in range(5):
        scribe.watch(desk.worker.result())
    assert scribe.counters.dropped == 2
    await scribe.close()


async def test_a_disk_that_fails_keeps_no_receipt_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(book: CreditBook) -> None:
        raise OSError(28, "no room")

    async with scribing(tmp_path) as (scribe, desk):
        with monkeypatch.context() as failing:
            failing.setattr(CreditBook, "save", full)
            failing.setattr(desk, "post", lambda message: desk.cuts.append("posted"))
            scribe.attached(desk)
            scribe.watch(desk.worker.result())
            desk.through = 1
            await until(lambda: desk.cuts)
        await until((tmp_path / CREDIT_FILE).exists)
    assert read_credits(tmp_path / CREDIT_FILE)[desk.node].results == 1
    assert "credits cannot be written" in caplog.text


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
    assert read_credits(tmp_path / CREDIT_FILE)[desk.node].results == 5
    credits = [entry.statement for entry in log.entries if isinstance(entry.statement, CreditEntry)]
    assert [credit.results for credit in credits] == [5]


async def test_a_log_that_fails_is_counted_and_receipts_go_on(tmp_path: Path) -> None:
    log = KeptEntries()
    log.error = OSError(5, "the disk is gone")
    quick = ReceiptSettings(every_s=0.01, settle_s=0.01, tick_s=0.005, log_every_s=0.02, credit_every_s=0.02)
    scribe = Scribe(tmp_path, MODEL.manifest, COORDINATOR, log, quick)
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
