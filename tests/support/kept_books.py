"""What tests do with books: open some, look into them from outside, and keep them from being written.

Guarantees: looking takes a connection of its own, so only what is durable is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.errors import BooksFullError
from folkmoot.coordinator.books.receipt_book import all_credits
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.ids import NodeId
from folkmoot.tests.support.session_accounts import SessionAccount, all_sessions

NO_ROOM = "there is no room for the books"


@contextmanager
def books_in(
    folder: Path, coordinator: bytes = b"c" * 32, settings: BooksSettings | None = None
) -> Iterator[Books]:
    """Books in a folder, closed at the end."""
    books = Books(settings or BooksSettings(busy_s=0.2), folder, coordinator)
    try:
        yield books
    finally:
        books.close()


def owed(folder: Path, settings: BooksSettings | None = None) -> dict[NodeId, Credit]:
    """What every node is owed."""
    database = Database(settings or BooksSettings(), folder)
    try:
        return database.read(all_credits)
    finally:
        database.close()


def accounts_of(folder: Path, settings: BooksSettings | None = None) -> list[SessionAccount]:
    """Every session that has a receipt."""
    database = Database(settings or BooksSettings(), folder)
    try:
        return database.read(all_sessions)
    finally:
        database.close()


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Meanwhile no books can be written."""

    def full(*_: object) -> None:
        raise BooksFullError(NO_ROOM, advice="make room")

    with monkeypatch.context() as failing:
        failing.setattr(Database, "write", full)
        yield
