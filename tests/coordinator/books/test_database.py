"""Books are one coordinator's, written by one process, readable by nobody else, refused when they are damaged; what can be wrong with an
address is said without the password in it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from folkmoot.coordinator.books import database as database_module
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.books_url import BOOKS_FILE
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.errors import (
    BooksDamagedError,
    BooksInUseError,
    BooksUnavailableError,
    BooksUrlError,
    ForeignBooksError,
)
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.errors import UsageError
from folkmoot.ids import NodeId
from folkmoot.tests.support.postgres_server import PostgresServer

OpenBooks = Callable[[], Books]
NODE = NodeId("ab" * 32)


def test_another_coordinators_books_are_refused(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    open_books().close()
    with pytest.raises(ForeignBooksError, match="database of its own"):
        Books(settings, tmp_path, b"d" * 32)
    open_books()


def test_one_coordinator_writes_on_a_server(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "CLAIM_WITHIN_S", 0.2)
    settings = BooksSettings(url=postgres.database())
    first = Books(settings, tmp_path, b"c" * 32)
    with pytest.raises(BooksInUseError, match="another coordinator writes"):
        Books(settings, tmp_path, b"c" * 32)
    first.close()
    Books(settings, tmp_path, b"c" * 32).close()


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    books = Books(BooksSettings(), tmp_path, b"c" * 32)
    books.states.changed(NODE, "ready", "", 1)
    made = list(tmp_path.iterdir())
    assert {path.name for path in made} >= {BOOKS_FILE}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    books.close()


@pytest.mark.parametrize("damage", ["overwritten", "cut", "no database"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    Books(BooksSettings(), tmp_path, b"c" * 32).close()
    path = tmp_path / BOOKS_FILE
    content = path.read_bytes()
    changed = {
        "overwritten": content[:4096] + bytes(len(content) - 4096),
        "cut": content[: len(content) // 2],
        "no database": b"something else" * 1000,
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(BooksDamagedError) as caught:
        Books(BooksSettings(), tmp_path, b"c" * 32)
    assert "convicted nodes could come back" in caught.value.advice


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u@h/d",
        "postgresql://u:hunter2@h",
        "sqlite://",
        "sqlite:///:memory:",
        "oracle9://x/y",
        "a://",
    ],
)
def test_an_address_that_makes_no_sense_is_named_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(BooksUrlError) as caught:
        Database(BooksSettings(url=url), tmp_path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.advice


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer_is_named_without_its_password(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://u:hunter2@127.0.0.1:1/folk"
    with pytest.raises(BooksUnavailableError, match="folk") as caught:
        Books(BooksSettings(url=url), tmp_path, b"c" * 32)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(BooksSettings(url=url))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"busy_s": 0.0}, {"keep_days": 0}):
        with pytest.raises(UsageError):
            BooksSettings(**wrong)


def test_a_database_that_is_in_use_takes_no_file(
    postgres: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = BooksSettings(url=postgres.database())
    used = Books(settings, tmp_path, b"c" * 32)
    used.contributors.enrolled(NODE, "oak", "0.1", None, b"t", (1, 10**10)).result(60)
    used.close()
    Books(BooksSettings(), tmp_path, b"c" * 32).close()
    Books(settings, tmp_path, b"c" * 32).close()
    assert "is not used" in caplog.text
    assert (tmp_path / BOOKS_FILE).exists()
