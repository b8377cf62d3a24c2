"""Books of both kinds: every test that takes `settings` or `books` runs on a SQLite file and on a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from folkmoot.coordinator.books import writer as writer_module
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.tests.support.postgres_server import PostgresServer

COORDINATOR = b"c" * 32
OpenBooks = Callable[[], Books]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for is written soon: tests do."""
    monkeypatch.setattr(writer_module, "IDLE_S", 0.1)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> Iterator[BooksSettings]:
    """Books that nobody has opened yet."""
    if request.param == "sqlite":
        yield BooksSettings(busy_s=0.2)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.database()
    yield BooksSettings(url=url, busy_s=0.2)
    server.give_back(url)


@pytest.fixture
def open_books(settings: BooksSettings, tmp_path: Path) -> Iterator[OpenBooks]:
    """Opens the same books each time it is called; all are closed at the end."""
    opened: list[Books] = []

    def open_them() -> Books:
        opened.append(Books(settings, tmp_path, COORDINATOR))
        return opened[-1]

    yield open_them
    for books in opened:
        books.close()


@pytest.fixture
def books(open_books: OpenBooks) -> Books:
    """Open books."""
    return open_books()
