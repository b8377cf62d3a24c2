"""When the books cannot be written, because they are locked, the disk is full, the connection is lost or the server is killed, nothing
that uses them waits or fails, it is said what is not recorded, and once they can be written all of it is, and nothing twice."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum, auto
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event

from folkmoot.coordinator.audit.standing_book import Record
from folkmoot.coordinator.books import server as server_module
from folkmoot.coordinator.books import writer as writer_module
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.books_url import BOOKS_FILE
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.errors import BooksFaultError, BooksFullError, BooksUnavailableError
from folkmoot.coordinator.books.placement_memory import Remembered
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import accounts_of, full_disk, owed
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.postgres_server import PostgresServer
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt
from folkmoot.trust.standing import Standing, Status

COORDINATOR = Identity(b"c" * 32)
PATIENCE_S = 60.0
KEY = b"n" * 32
NODE = NodeId(KEY.hex())


class Outage(Enum):
    """One way in which books cannot be written."""

    FILE_LOCKED = auto()
    FILE_FULL = auto()
    TABLE_LOCKED = auto()
    CONNECTION_LOST = auto()
    SERVER_KILLED = auto()
    SERVER_SILENT = auto()


class Session:
    """One session of one node."""

    def __init__(self) -> None:
        self.last: Receipt | None = None
        self._chain = ReceiptChain(COORDINATOR.public, KEY, b"s" * 32, b"m" * 32)

    def receipt(self, books: Books) -> None:
        """One more receipt, for one result."""
        through = self.last.through + 1 if self.last else 1
        self.last = self._chain.next(
            self.last, [CreditedResult(through, b"l" * 32, 2, 30)], through, int(time.time())
        )
        books.receipts.receipted(SignedReceipt.signed(self.last, COORDINATOR), 1, 2, 30)


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


class Trouble:
    """Makes an outage, and ends it."""

    def __init__(
        self,
        outage: Outage,
        books: Books,
        settings: BooksSettings,
        folder: Path,
        server: PostgresServer | None,
    ):
        self._outage, self._books, self._settings, self._folder = outage, books, settings, folder
        self._server = server
        self._file: sqlite3.Connection | None = None
        self._client: psycopg.Connection | None = None

    def begin(self) -> None:
        match self._outage:
            case Outage.FILE_LOCKED:
                self._file = sqlite3.connect(self._folder / BOOKS_FILE, isolation_level=None)
                self._file.execute("BEGIN IMMEDIATE")
            case Outage.FILE_FULL:
                event.listen(self._books._database._engine, "begin", self._fill)
            case Outage.TABLE_LOCKED:
                self._client = psycopg.connect(self._settings.url)
                self._client.execute("LOCK TABLE credits IN ACCESS EXCLUSIVE MODE")
            case Outage.CONNECTION_LOST:
                assert self._server is not None
                self._server.admit(self._settings.url, connections=False)
            case Outage.SERVER_KILLED:
                assert self._server is not None
                self._server.kill()
            case Outage.SERVER_SILENT:
                assert self._server is not None
                self._server.stop()

    def end(self) -> None:
        match self._outage:
            case Outage.FILE_LOCKED:
                assert self._file is not None
                self._file.close()
            case Outage.FILE_FULL:
                event.remove(self._books._database._engine, "begin", self._fill)
            case Outage.TABLE_LOCKED:
                assert self._client is not None
                self._client.close()
            case Outage.CONNECTION_LOST:
                assert self._server is not None
                self._server.admit(self._settings.url, connections=True)
            case Outage.SERVER_KILLED:
                assert self._server is not None
                self._server.start()
            case Outage.SERVER_SILENT:
                assert self._server is not None
                self._server.go_on()

    @staticmethod
    def _fill(connection: object) -> None:
        # The file may not grow any more: SQLite says what it says when the disk is full.
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]


@pytest.mark.parametrize("outage", Outage, ids=lambda outage: outage.name)
def test_nothing_is_lost_nor_counted_twice(
    outage: Outage,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if outage is Outage.SERVER_SILENT:
        monkeypatch.setattr(server_module, "SILENT_S", 1.0)
        monkeypatch.setattr(server_module, "PATIENCE_S", 2)
    server = None
    settings = BooksSettings(busy_s=0.2)
    if not outage.name.startswith("FILE"):
        own = outage in (Outage.SERVER_KILLED, Outage.SERVER_SILENT)
        server = PostgresServer() if own else request.getfixturevalue("postgres")
        if own:
            request.addfinalizer(server.close)
            server.start()
        settings = BooksSettings(url=server.database(), busy_s=0.2)
    books = Books(settings, tmp_path, COORDINATOR.public)
    request.addfinalizer(books.close)
    session = Session()
    session.receipt(books)
    books.receipts.flush().result(PATIENCE_S)
    trouble = Trouble(outage, books, settings, tmp_path, server)
    trouble.begin()
    try:
        waiting = []
        began_s = time.monotonic()
        # More than fits into what a file has free inside: a full one takes nothing from here on.
        for number in range(400):
            books.states.changed(NODE, "ready", f"{number} {'x' * 400}", number)
        for _ in range(50):
            session.receipt(books)
            waiting.append(books.receipts.flush())
            assert books.owner_of(NODE) == NODE
            assert books.leaderboard()["contributors"][0]["results"] == 1, (
                "nothing is told that is not durable"
            )
        assert time.monotonic() - began_s < PATIENCE_S / 2
        group = books.receipts._group
        until(lambda: books.writer.fault(group))
        assert isinstance(books.writer.fault(group), BooksUnavailableError | BooksFullError)
        late = books.contributors.enrolled(NODE, "oak", "0.1", None, b"t", (1, 10**10))
        with pytest.raises((BooksUnavailableError, BooksFullError)):
            late.result(PATIENCE_S)
        assert not any(future.done() for future in waiting)
        until(lambda: "not recorded yet, and tried again" in caplog.text)
        assert "of receipts and credits" in caplog.text
    finally:
        trouble.end()
    for future in waiting:
        future.result(PATIENCE_S)
    assert owed(tmp_path, settings) == {NODE: Credit(51, 102, 51 * 30)}
    (account,) = accounts_of(tmp_path, settings)
    assert account.receipt.receipt == session.last
    assert account.credit == Credit(51, 102, 51 * 30)
    until(lambda: "are written again" in caplog.text)


def test_books_on_a_silent_server_are_closed_all_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "SILENT_S", 5.0)
    server = PostgresServer()
    request.addfinalizer(server.close)
    server.start()
    books = Books(BooksSettings(url=server.database()), tmp_path, COORDINATOR.public)
    Session().receipt(books)
    server.stop()
    try:
        flushed = books.receipts.flush()
        began_s = time.monotonic()
        books.writer.close(0.1)
        books.close()
        assert time.monotonic() - began_s < 4.5
        assert isinstance(flushed.exception(0), BooksUnavailableError)
    finally:
        server.go_on()
        books.writer._thread.join(PATIENCE_S)


def test_what_is_refused_keeps_nothing_else_back(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    staged = books.states._changes
    monkeypatch.setattr(staged, "_write", lambda connection, taken: connection.exec_driver_sql("nonsense"))
    books.states.changed(NODE, "ready", "", 1)
    session.receipt(books)
    books.receipts.flush().result(PATIENCE_S)
    assert books.receipts.owed()[NODE].results == 1
    assert books.writer.failures > 0
    assert books.writer.waiting == 1
    books.contributors.enrolled(NODE, "oak", "0.1", None, b"t", (1, 10**10)).result(PATIENCE_S)
    monkeypatch.undo()
    until(lambda: not books.writer.waiting)


def test_a_node_that_the_database_refuses_keeps_no_other_back(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = books.contributors._enrolled
    write = staged._write

    def picky(connection: Connection, taken: dict[NodeId, object]) -> None:
        if NODE in taken:
            connection.exec_driver_sql("nonsense")
        write(connection, taken)  # type: ignore[arg-type]

    monkeypatch.setattr(staged, "_write", picky)
    others = [NodeId(f"{number:064x}") for number in range(1, 20)]

    def enrolled(node: NodeId) -> Future[None]:
        return books.contributors.enrolled(node, "oak", "0.1", None, node.encode(), (1, 10**10))

    for _ in range(2):
        futures = {node: enrolled(node) for node in [*others[:9], NODE, *others[9:]]}
        with pytest.raises(BooksFaultError):
            futures[NODE].result(PATIENCE_S)
        for node in others:
            futures[node].result(PATIENCE_S)
    assert not books.writer.waiting, "who was told no is not tried again"
    monkeypatch.undo()
    enrolled(NODE).result(PATIENCE_S)


def test_a_refused_standing_is_tried_again_and_the_others_are_written(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = books.standings._changes
    write = staged._write
    kept: list[NodeId] = []

    def picky(connection: Connection, taken: dict[NodeId, object]) -> None:
        if NODE in taken:
            connection.exec_driver_sql("nonsense")
        write(connection, taken)  # type: ignore[arg-type]
        kept.extend(taken)

    monkeypatch.setattr(staged, "_write", picky)
    other = NodeId("cd" * 32)
    record = Record(Standing(Status.BANNED, "", 1.0, 0, ()), "oak")
    books.standings.put(NODE, record)
    books.standings.put(other, record)
    assert isinstance(books.standings.save(), BooksFaultError)
    until(lambda: books.writer.waiting == 1)
    assert kept == [other]
    monkeypatch.undo()
    until(lambda: not books.writer.waiting)
    assert books.standings.save() is None


def test_a_node_that_says_it_lends_more_than_a_database_can_count(books: Books) -> None:
    manifest = MemoryExperts().manifest
    memory = books.placement(manifest)
    memory.save({NODE: Remembered((1 << 64) - 1, frozenset())})
    books.contributors.enrolled(NODE, "oak", "0.1", None, b"t", (1, 10**10)).result(PATIENCE_S)
    assert not books.writer.failures
    assert memory.load() == {NODE: Remembered((1 << 63) - 1, frozenset())}


def test_changes_that_come_together_are_written_together(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads that wait share few transactions."""
    writes: list[object] = []
    write = books._database.write

    def counted(work: Callable[[Connection], object]) -> object:
        writes.append(work)
        return write(work)

    monkeypatch.setattr(books._database, "write", counted)

    def enrol(number: int) -> None:
        for each in range(10):
            node = NodeId(f"{number:032x}{each:032x}")
            books.contributors.enrolled(node, "n", "0.1", None, node.encode(), (1, 10**10)).result(PATIENCE_S)

    threads = [threading.Thread(target=enrol, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(books.contributors.known()) == 160
    assert len(writes) < 160


def test_what_cannot_be_written_in_the_end_is_said(
    books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "CLOSE_WITHIN_S", 0.3)
    session = Session()
    with full_disk(monkeypatch):
        session.receipt(books)
        flushed = books.receipts.flush()
        books.writer.close(0.3)
        assert isinstance(flushed.exception(PATIENCE_S), BooksUnavailableError)
        assert isinstance(books.receipts.flush().exception(PATIENCE_S), BooksUnavailableError)
    assert "these are lost" in caplog.text
    assert "2 of receipts and credits" in caplog.text
