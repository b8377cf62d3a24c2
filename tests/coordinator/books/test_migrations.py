"""Migrations: they lead to the tables that the code knows, a step is taken whole or not at all and only once, and books of a later
version are refused and left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, MetaData, inspect, text

from folkmoot.coordinator.books import migrations
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.errors import BooksFaultError, ForeignBooksError
from folkmoot.coordinator.books.receipt_book import write_credits
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.standings import all_standings
from folkmoot.coordinator.books.tables import metadata
from folkmoot.coordinator.books.visitor import NoBooksError, Visitor
from folkmoot.ids import NodeId

OpenBooks = Callable[[], Books]
NODE = NodeId("ab" * 32)
NEXT = (
    "ALTER TABLE credits ADD COLUMN thanks TEXT NOT NULL DEFAULT 'none'",
    "CREATE TABLE medals (node TEXT PRIMARY KEY)",
)


def looked_at(database: Database) -> tuple[int, set[str]]:
    """The version, and the names of all tables."""
    return database.read(lambda one: (migrations.version(one), set(inspect(one).get_table_names())))


def test_they_lead_to_the_tables_that_the_code_knows(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    open_books().close()
    database = Database(settings, tmp_path)

    def check(connection: Connection) -> None:
        found = MetaData()
        found.reflect(connection)
        assert found.tables.keys() == metadata.tables.keys() | {migrations.VERSION_TABLE}
        for table in metadata.sorted_tables:
            there = found.tables[table.name]
            assert [column.name for column in there.columns] == [column.name for column in table.columns]
            assert [one.name for one in there.primary_key] == [one.name for one in table.primary_key]
            for column in table.columns:
                assert there.columns[column.name].nullable == column.nullable or column.primary_key, column
                wanted = column.type.compile(connection.dialect)
                is_type = there.columns[column.name].type.compile(connection.dialect)
                assert is_type == wanted, (table.name, column.name)
            assert {index.name for index in there.indexes} == {index.name for index in table.indexes}
            keys = {key.target_fullname for key in there.foreign_keys}
            assert keys == {key.target_fullname for key in table.foreign_keys}

    database.read(check)
    database.close()


def test_books_of_an_earlier_version_are_brought_up(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_books().close()
    database = Database(settings, tmp_path)
    database.write_beside(lambda connection: write_credits(connection, [(NODE, Credit(1, 2, 3))]))
    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, NEXT])
    with pytest.raises(ForeignBooksError, match="start the coordinator once"):
        Visitor(settings, tmp_path)
    books = open_books()
    assert books.receipts.owed() == {NODE: Credit(1, 2, 3)}
    books.close()
    open_books().close()
    assert looked_at(database)[0] == len(migrations.STEPS)
    thanks = database.read(lambda connection: connection.execute(text("SELECT thanks FROM credits")).scalar())
    assert thanks == "none"
    database.close()


def test_whom_an_operator_may_have_admitted_is_not_convicted_by_old_evidence(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path
) -> None:
    open_books().close()
    database = Database(settings, tmp_path)

    def migrate(connection: Connection) -> None:
        types = migrations._TYPES[connection.dialect.name]
        connection.execute(text("ALTER TABLE standings DROP COLUMN admitted_s"))
        for node, status in enumerate(("probation", "member", "quarantined", "banned")):
            connection.execute(
                text("INSERT INTO standings VALUES (:node, '', :status, '', 100, 0, '[]')"),
                {"node": str(node), "status": status},
            )
        for step in migrations.STEPS[1]:
            connection.execute(text(step.format(**types)))

    database.write_beside(migrate)
    found = database.read(all_standings)
    database.close()
    assert [found[NodeId(str(node))].standing.admitted_s for node in range(4)] == [100, 100, 0, 0]


def test_a_step_that_fails_leaves_the_version_before(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_books().close()
    database = Database(settings, tmp_path)
    before = looked_at(database)
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "STEPS", [*migrations.STEPS, (*NEXT, "ALTER TABLE nothing ADD x TEXT")])
        with pytest.raises((BooksFaultError, Exception), match="nothing"):
            open_books()
    assert looked_at(database) == before
    database.close()
    open_books()


def test_books_of_a_later_version_are_refused_and_left_alone(
    open_books: OpenBooks, settings: BooksSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "STEPS", [*migrations.STEPS, NEXT])
        open_books().close()
    database = Database(settings, tmp_path)
    before = looked_at(database)
    for look in (open_books, lambda: Visitor(settings, tmp_path)):
        with pytest.raises(ForeignBooksError, match="update folkmoot"):
            look()
    assert looked_at(database) == before
    database.close()


def test_where_no_books_are_a_visitor_makes_none(settings: BooksSettings, tmp_path: Path) -> None:
    with pytest.raises(NoBooksError, match="start the coordinator once"):
        Visitor(settings, tmp_path)
    assert not list(tmp_path.iterdir())
