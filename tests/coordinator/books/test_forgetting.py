"""What is old is forgotten, at the start and daily, and nothing that still counts: no credit, no open session, no node that earned something,
nothing that the public log has not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from folkmoot.coordinator.books import writer as writer_module
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.tables import sessions
from folkmoot.coordinator.books.visitor import Visitor
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import accounts_of, owed
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import CreditedResult, ReceiptChain, SignedReceipt

OpenBooks = Callable[[], Books]
COORDINATOR = Identity(b"c" * 32)
LONG_AGO = int(time.time()) - 91 * 86_400
PATIENCE_S = 60.0
LOGGED, OPEN, UNLOGGED = (bytes([number]) * 32 for number in range(1, 4))
EARNED, IDLE, NEW = (NodeId(f"{number:064x}") for number in range(1, 4))


def keep(books: Books) -> None:
    """Old sessions and nodes."""
    for session in (LOGGED, OPEN, UNLOGGED):
        chain = ReceiptChain(COORDINATOR.public, bytes.fromhex(EARNED), session, b"m" * 32)
        receipt = chain.next(None, [CreditedResult(1, b"l" * 32, 2, 30)], 1, LONG_AGO)
        books.receipts.receipted(SignedReceipt.signed(receipt, COORDINATOR), 1, 2, 30)
    books.receipts.flush().result(PATIENCE_S)
    logged = update(sessions).where(sessions.c.session != UNLOGGED.hex()).values(logged=1)
    books._database.write(lambda connection: connection.execute(logged))
    for node in (EARNED, IDLE, NEW):
        at_unix_s = int(time.time()) if node == NEW else LONG_AGO
        books.contributors.enrolled(node, "oak", "0.1", None, node.encode(), (at_unix_s, at_unix_s)).result(
            PATIENCE_S
        )
    books.states.changed(EARNED, "ready", "", LONG_AGO)


def check(settings: BooksSettings, folder: Path, left: set[bytes]) -> None:
    assert {bytes.fromhex(one.session) for one in accounts_of(folder, settings)} == left
    assert owed(folder, settings) == {EARNED: Credit(3, 6, 90)}
    with Visitor(settings, folder) as visitor:
        assert visitor.known() == [EARNED, NEW]
        assert visitor.history(EARNED, 10) == []


def test_old_things_are_forgotten_at_the_start(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    books = open_books()
    keep(books)
    books.close()
    books = open_books()
    check(settings, tmp_path, {UNLOGGED})
    assert books.contributors.known().keys() == {EARNED, NEW}


def test_old_things_are_forgotten_while_the_coordinator_runs(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = open_books()
    books.receipts.is_open = lambda session: session == OPEN
    keep(books)
    until_s = time.monotonic() + PATIENCE_S
    while books.writer.waiting:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert IDLE in books.contributors.known()
    monkeypatch.setattr(writer_module, "DAY_S", 0.0)
    books.writer.wake()
    while IDLE in books.contributors.known():
        assert time.monotonic() < until_s
        time.sleep(0.01)
    check(settings, tmp_path, {OPEN, UNLOGGED})
    books.contributors.enrolled(IDLE, "oak", "0.1", None, b"t", (int(time.time()), 10**10)).result(PATIENCE_S)
    assert IDLE in books.contributors.known()
