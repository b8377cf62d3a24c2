"""Books that are named elsewhere move there whole, once, whatever interrupts it; nothing begins empty where there were books."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from folkmoot.coordinator.books import moving
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.books_url import BOOKS_FILE
from folkmoot.coordinator.books.contributors import new_invite
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.moving import BooksElsewhereError
from folkmoot.coordinator.books.old_files import TAKEN_SUFFIX
from folkmoot.coordinator.books.receipt_book import write_credits
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.tables import facts, owners
from folkmoot.coordinator.books.upsert import upsert
from folkmoot.ids import NodeId
from folkmoot.tests.support.postgres_server import PostgresServer

COORDINATOR = b"c" * 32
NODE = NodeId("ab" * 32)
OWED = {NODE: Credit(1, 2, 1 << 80)}


@pytest.fixture(params=["file", "server"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> BooksSettings:
    """Another place for the books."""
    return named(request, tmp_path, request.param)


def named(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> BooksSettings:
    if kind == "file":
        return BooksSettings(url=f"sqlite:///{tmp_path / 'other.sqlite'}")
    server: PostgresServer = request.getfixturevalue("postgres")
    return BooksSettings(url=server.database())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder with books in it."""
    folder = tmp_path / "state"
    folder.mkdir()
    books = Books(BooksSettings(), folder, COORDINATOR)
    books.listens("[::1]:7440")
    books._database.write(lambda connection: new_invite(connection, "Ada", "the countess", 1))
    books.contributors.refresh()
    books.contributors.enrolled(NODE, "oak", "0.1", "Ada", b"t", (1, 10**10)).result(60)
    books._database.write(lambda connection: write_credits(connection, OWED.items()))
    books.close()
    return folder


def check(settings: BooksSettings, folder: Path) -> None:
    books = Books(settings, folder, COORDINATOR)
    assert books.receipts.owed() == OWED
    assert books.contributors.known()[NODE].name == "oak"
    assert books.owner_of(NODE) == "Ada"
    assert books.contributors.public_names() == {"Ada": "the countess"}
    books.close()


def test_books_move_whole_and_once(folder: Path, elsewhere: BooksSettings) -> None:
    for _ in range(2):
        check(elsewhere, folder)
    assert not (folder / BOOKS_FILE).exists()
    assert (folder / (BOOKS_FILE + TAKEN_SUFFIX)).exists()


def test_a_move_that_ended_before_the_file_was_renamed_is_taken_up(
    folder: Path, elsewhere: BooksSettings, caplog: pytest.LogCaptureFixture
) -> None:
    check(elsewhere, folder)
    (folder / (BOOKS_FILE + TAKEN_SUFFIX)).rename(folder / BOOKS_FILE)
    check(elsewhere, folder)
    assert not (folder / BOOKS_FILE).exists()
    assert "not used" not in caplog.text


def test_a_database_where_only_an_owner_is_known_is_in_use(
    folder: Path, elsewhere: BooksSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    used = Books(elsewhere, tmp_path / "empty", COORDINATOR)

    def write(connection: Connection) -> None:
        connection.execute(insert(owners).values(owner="Ada", public_name="", created_unix_s=1))

    used._database.write(write)
    used.close()
    Books(elsewhere, folder, COORDINATOR).close()
    assert "is not used" in caplog.text
    assert (folder / BOOKS_FILE).exists()


def test_without_its_name_no_new_books_are_begun(folder: Path, elsewhere: BooksSettings) -> None:
    check(elsewhere, folder)
    with pytest.raises(BooksElsewhereError, match="were moved") as caught:
        Books(BooksSettings(), folder, COORDINATOR)
    assert "rename" in caught.value.advice
    assert not (folder / BOOKS_FILE).exists()
    (folder / (BOOKS_FILE + TAKEN_SUFFIX)).rename(folder / BOOKS_FILE)
    check(BooksSettings(), folder)


@pytest.mark.parametrize("kind", ["file", "server"])
def test_a_third_place_is_not_begun_either(
    kind: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    check(BooksSettings(url=f"sqlite:///{tmp_path / 'second.sqlite'}"), folder)
    third = named(request, tmp_path, kind)
    for _ in range(2):
        with pytest.raises(BooksElsewhereError):
            Books(third, folder, COORDINATOR)
    assert not (tmp_path / "other.sqlite").exists()


def test_the_file_by_its_own_name_is_where_it_is(folder: Path) -> None:
    check(BooksSettings(url=f"sqlite:///{folder}/../{folder.name}/{BOOKS_FILE}"), folder)
    assert (folder / BOOKS_FILE).exists()


def test_a_copy_that_fails_leaves_nothing_half(
    folder: Path, elsewhere: BooksSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(connection: Connection, table: object, *rest: object) -> None:
        if table is facts and "moved" in str(rest):
            raise OSError("the power went")
        upsert(connection, table, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(moving, "upsert", failing)
    with pytest.raises(Exception, match="the power went"):
        Books(elsewhere, folder, COORDINATOR)
    assert (folder / BOOKS_FILE).exists()
    monkeypatch.undo()
    check(elsewhere, folder)
