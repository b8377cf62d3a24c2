"""Proven of what goes into the public log: one entry for all sessions that had a receipt, with the newest of each and a proof for
each node, sent when it is there to stay or when the node comes back; what the log does not take is tried again; credits are
logged for those whose credit changed, and are the book's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.receipt_book import MOST_PROOFS, SENT_AGAIN
from folkmoot.coordinator.ledger.receipt_batches import ReceiptBatches
from folkmoot.coordinator.ledger.receipt_counters import ReceiptCounters
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.errors import CapacityError
from folkmoot.ids import NodeId
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.kept_books import books_in
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import CreditEntry, LogEntry, ReceiptsEntry
from folkmoot.trust.logged_receipts import LoggedReceipt
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt

COORDINATOR = Identity(b"c" * 32)
NOW = int(time.time())
SETTINGS = ReceiptSettings(log_every_s=10.0, credit_every_s=100.0)


class Pages:
    """A log in memory that takes entries when it is told to."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.waiting: list[tuple[LogEntry, Future[int]]] = []

    def append(self, entry: LogEntry) -> Future[int]:
        future: Future[int] = Future()
        self.waiting.append((entry, future))
        return future

    def write(self) -> None:
        for entry, future in self.waiting:
            self.entries.append(entry)
            future.set_result(len(self.entries) - 1)
        self.waiting.clear()

    def fail(self) -> None:
        for _, future in self.waiting:
            future.set_exception(CapacityError("no room"))
        self.waiting.clear()


class Desk:
    """Batches, and the nodes that are there."""

    def __init__(self, books: Books) -> None:
        self.pages = Pages()
        self.book = books.receipts
        self.counters = ReceiptCounters()
        self.batches = ReceiptBatches(COORDINATOR, self.pages, self.book, SETTINGS, self.counters)
        self.there: set[NodeId] = set()
        self.sent: list[tuple[NodeId, LoggedReceipt]] = []
        self.batches.tick(0.0, 5, self.deliver)

    def deliver(self, node: NodeId, message: link_pb2.CoordinatorMessage, queued: Callable[[], None]) -> None:
        if node in self.there:
            self.sent.append((node, LoggedReceipt.decode(message.logged_receipt.logged)))
            queued()

    def tick(self, now_s: float) -> None:
        self.batches.tick(now_s, int(now_s), self.deliver)

    def issue(self, node: int, session: int, previous: Receipt | None = None) -> SignedReceipt:
        key = bytes([node]) * 32
        chain = ReceiptChain(COORDINATOR.public, key, bytes([session]) * 32, b"m" * 32)
        before = previous.through if previous else 0
        receipt = chain.next(
            previous, [CreditedResult(before + 1, b"l" * 32, 2, 30)], before + 1, NOW + session
        )
        signed = SignedReceipt.signed(receipt, COORDINATOR)
        owed = self.book.receipted(signed, 1, 2, 30)
        self.batches.written(NodeId(key.hex()), signed, owed)
        return signed


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with books_in(tmp_path) as books:
        yield Desk(books)


def test_one_entry_has_the_newest_receipt_of_each_session(desk: Desk) -> None:
    first = desk.issue(1, 1)
    newest = [desk.issue(1, 1, first.receipt), desk.issue(1, 2), desk.issue(2, 3)]
    desk.there = {NodeId((bytes([node]) * 32).hex()) for node in (1, 2)}
    desk.tick(9.0)
    assert not desk.pages.waiting
    desk.tick(10.0)
    desk.tick(11.0)
    assert not desk.sent
    desk.pages.write()
    desk.tick(12.0)
    (entry,) = desk.pages.entries
    assert isinstance(entry.statement, ReceiptsEntry)
    assert entry.statement.count == 3
    assert {logged.signed for _, logged in desk.sent} == set(newest)
    for node, logged in desk.sent:
        assert logged.check() == entry.statement
        assert logged.signed.receipt.node.hex() == node
        assert logged.index == 0
    assert desk.counters.batches == 1


def test_nothing_is_logged_when_nothing_happened(desk: Desk) -> None:
    for now_s in (20.0, 200.0, 400.0):
        desk.tick(now_s)
    desk.batches.finish(7)
    assert not desk.pages.waiting


def test_what_the_log_did_not_take_is_in_the_next_entry(desk: Desk) -> None:
    older = desk.issue(1, 1)
    desk.issue(2, 2)
    desk.tick(10.0)
    desk.issue(1, 1, older.receipt)
    desk.pages.fail()
    desk.tick(11.0)
    desk.tick(20.0)
    desk.pages.write()
    (entry,) = desk.pages.entries
    assert isinstance(entry.statement, ReceiptsEntry)
    assert entry.statement.count == 2
    assert desk.counters.unlogged == 1
    desk.there = {NodeId("01" * 32)}
    desk.tick(21.0)
    assert [logged.signed.receipt.number for _, logged in desk.sent] == [2]


def test_proofs_wait_for_a_node_that_is_away(desk: Desk) -> None:
    node = NodeId("01" * 32)
    for session in range(1, MOST_PROOFS + 3):
        desk.issue(1, session)
        desk.tick(10.0 * session)
        desk.pages.write()
        desk.tick(10.0 * session + 1)
    desk.book.flush().result(60)
    waiting = desk.book.proofs_for(node)
    assert [proof.signed.receipt.session[0] for proof in waiting] == list(range(3, MOST_PROOFS + 3))
    for proof in waiting:
        desk.book.shown(proof)
        desk.book.agreed(proof.signed.receipt.session, proof.signed.receipt.number)
    desk.book.flush().result(60)
    sessions = [proof.signed.receipt.session[0] for proof in desk.book.proofs_for(node)]
    newest = list(range(MOST_PROOFS + 3 - SENT_AGAIN, MOST_PROOFS + 3))
    assert sessions == [1, 2, *newest], (
        "of the newest nobody knows whether they were still sent when the link ended"
    )
    for proof in waiting:
        desk.book.agreed(proof.signed.receipt.session, 0)
    desk.book.flush().result(60)
    sessions = [proof.signed.receipt.session[0] for proof in desk.book.proofs_for(node)]
    assert sessions == [1, 2, *range(5, MOST_PROOFS + 3)], "what was never sent comes before what was"


def test_what_the_log_is_not_known_to_have_is_logged_after_a_restart(tmp_path: Path) -> None:
    with books_in(tmp_path) as books:
        desk = Desk(books)
        logged, newer, last = desk.issue(1, 1), desk.issue(1, 2), desk.issue(2, 3)
        desk.tick(10.0)
        desk.pages.write()
        desk.tick(11.0)
        newer = desk.issue(1, 2, newer.receipt)
        last = desk.issue(2, 3, last.receipt)
    with books_in(tmp_path) as books:
        desk = Desk(books)
        desk.batches.begin()
        desk.tick(200.0)
        desk.pages.write()
        desk.there = {NodeId("01" * 32), NodeId("02" * 32)}
        desk.tick(201.0)
        assert {proof.signed for _, proof in desk.sent} == {newer, last}
        assert logged not in {proof.signed for _, proof in desk.sent}
        credits = [one.statement for one in desk.pages.entries if isinstance(one.statement, CreditEntry)]
        assert [(credit.node[0], credit.row_bytes) for credit in credits] == [(1, 90), (2, 60)]


def test_credits_are_logged_for_those_that_earned_any(desk: Desk) -> None:
    first = desk.issue(1, 1)
    desk.issue(2, 2)
    desk.tick(100.0)
    desk.pages.write()
    desk.issue(1, 1, first.receipt)
    desk.tick(200.0)
    desk.pages.write()
    found = [
        (entry.statement.node[0], entry.statement.results, entry.statement.rows, entry.statement.row_bytes)
        for entry in desk.pages.entries
        if isinstance(entry.statement, CreditEntry)
    ]
    assert found == [(1, 1, 2, 30), (2, 1, 2, 30), (1, 2, 4, 60)]
    for entry in desk.pages.entries:
        entry.verify(COORDINATOR.public)


def test_a_credit_that_the_log_did_not_take_is_tried_again(desk: Desk) -> None:
    desk.issue(1, 1)
    desk.tick(100.0)
    desk.pages.fail()
    desk.tick(200.0)
    desk.pages.write()
    assert [type(entry.statement) for entry in desk.pages.entries].count(CreditEntry) == 1


def test_at_the_end_all_is_handed_to_the_log(desk: Desk) -> None:
    desk.issue(1, 1)
    desk.batches.finish(7)
    desk.pages.write()
    assert {type(entry.statement) for entry in desk.pages.entries} == {ReceiptsEntry, CreditEntry}
