"""Receipts and credits: they add up over restarts in whole numbers of any size, are written together or not at all, and writing what
was written already changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from folkmoot.coordinator.books import receipt_book
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.receipt_book import ReceiptBook, all_credits, write_credits
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.errors import FolkmootError
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import accounts_of, owed
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt

OpenBooks = Callable[[], Books]
COORDINATOR = Identity(b"c" * 32)
NOW = int(time.time())
PATIENCE_S = 60.0


class Giver:
    """Gives a node receipts of one session."""

    def __init__(self, node: int, session: int, issued_unix_s: int = NOW) -> None:
        key = bytes([node]) * 32
        self.node = NodeId(key.hex())
        self.last: Receipt | None = None
        self._chain = ReceiptChain(COORDINATOR.public, key, bytes([session]) * 32, b"m" * 32)
        self._issued_unix_s = issued_unix_s

    def give(self, book: ReceiptBook, results: int = 1, rows: int = 2, row_bytes: int = 30) -> Credit:
        """One more receipt."""
        before = self.last.through if self.last is not None else 0
        each = [CreditedResult(before + 1 + number, b"l" * 32, rows, row_bytes) for number in range(results)]
        self.last = self._chain.next(self.last, each, before + results, self._issued_unix_s)
        signed = SignedReceipt.signed(self.last, COORDINATOR)
        return book.receipted(signed, results, results * rows, results * row_bytes)


def balanced(folder: Path, settings: BooksSettings) -> bool:
    """Whether what is owed is what the receipts come to."""
    sums: dict[NodeId, Credit] = {}
    for one in accounts_of(folder, settings):
        sums[one.node] = sums.get(one.node, Credit()) + one.credit
    return sums == owed(folder, settings)


def test_credits_add_up_over_sessions_and_restarts(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    books = open_books()
    first, second, other = Giver(1, 1), Giver(1, 2), Giver(2, 3)
    assert first.give(books.receipts, results=3) == Credit(3, 6, 90)
    assert second.give(books.receipts) == Credit(4, 8, 120)
    other.give(books.receipts, row_bytes=7)
    assert books.receipts.owed() == {}, "nothing is owed that a kill would take back"
    books.receipts.flush().result(PATIENCE_S)
    assert books.receipts.owed() == {first.node: Credit(4, 8, 120), other.node: Credit(1, 2, 7)}
    books.close()
    books = open_books()
    assert books.receipts.owed() == {first.node: Credit(4, 8, 120), other.node: Credit(1, 2, 7)}
    assert Giver(1, 4).give(books.receipts) == Credit(5, 10, 150)
    books.close()
    assert owed(tmp_path, settings)[first.node] == Credit(5, 10, 150)
    assert balanced(tmp_path, settings)


@pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
def test_numbers_of_any_size_stay_exact(settings: BooksSettings, tmp_path: Path) -> None:
    database = Database(settings, tmp_path)
    database.claim(COORDINATOR.public)
    node = NodeId("ab" * 32)

    @hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
    @given(st.integers(0, 10**59), st.integers(0, 1 << 64), st.integers(0, 1 << 53))
    def check(row_bytes: int, rows: int, results: int) -> None:
        credit = Credit(results, rows, row_bytes)
        database.write(lambda connection: write_credits(connection, [(node, credit)]))
        found = database.read(all_credits)[node]
        assert found == credit
        assert {type(value) for value in (found.results, found.rows, found.row_bytes)} == {int}

    check()
    database.close()


def test_what_is_written_twice_counts_once(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost at the very end of a commit: it was done, and nobody knows."""
    books, giver = open_books(), Giver(1, 1)
    write = Database.write
    lost: list[object] = []

    def lose(database: Database, work: Callable[[Connection], object]) -> object:
        done = write(database, work)
        if not lost:
            lost.append(done)
            raise FolkmootError("the connection was lost")
        return done

    monkeypatch.setattr(Database, "write", lose)
    giver.give(books.receipts, results=5)
    flushed = books.receipts.flush()
    flushed.result(PATIENCE_S)
    assert lost
    assert owed(tmp_path, settings) == {giver.node: Credit(5, 10, 150)}
    assert balanced(tmp_path, settings)


def test_a_receipt_and_its_credit_are_written_together_or_not_at_all(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: Connection, *_: object) -> None:
        connection.execute(text("SELECT * FROM nowhere"))

    monkeypatch.setattr(receipt_book, "write_credits", fail)
    books, giver = open_books(), Giver(1, 1)
    giver.give(books.receipts)
    flushed = books.receipts.flush()
    deadline_s = time.monotonic() + PATIENCE_S
    while books.writer.failures < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert not flushed.done()
    assert accounts_of(tmp_path, settings) == []
    monkeypatch.undo()
    flushed.result(PATIENCE_S)
    assert balanced(tmp_path, settings)
    assert owed(tmp_path, settings)[giver.node].results == 1


def test_what_the_node_and_the_log_say_is_kept_beside_later_receipts(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    books, giver = open_books(), Giver(1, 1)
    giver.give(books.receipts)
    assert giver.last is not None
    books.receipts.agreed(giver.last.session, 1)
    giver.give(books.receipts)
    books.close()
    (account,) = accounts_of(tmp_path, settings)
    assert (account.receipt.receipt, account.acknowledged, account.logged) == (giver.last, 1, 0)
    assert [one.receipt for one in open_books().receipts.unlogged()] == [giver.last]
