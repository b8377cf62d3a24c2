"""Moving the books from the file in the state folder to the database that is named in its place.

Guarantees: nothing begins empty where there were books: what the file has is copied, in one transaction with the note that it was,
so an interrupted move is taken up again; afterwards the file is kept under another name, and while it lies there books
that nobody has written in are refused.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Table, select

from ...errors import UsageError
from .books_url import BOOKS_FILE
from .database import COORDINATOR_FACT, Database
from .old_files import TAKEN_SUFFIX
from .settings import BooksSettings
from .tables import facts, metadata
from .upsert import upsert

log = logging.getLogger(__name__)

_MOVED_FACT: Final = f"moved from: {BOOKS_FILE}"


class BooksElsewhereError(UsageError):
    """The books were moved, and these are not where they were moved to."""


def refuse_new_file(folder: Path, database: Database) -> None:
    """Returns unless opening a database would make a new file though the books of this state folder were moved away.

    Raises:
        BooksElsewhereError: when it would.
    """
    if _moved(folder).exists() and not (database.there or (folder / BOOKS_FILE).exists()):
        raise _elsewhere(folder, database)


def move_in(folder: Path, database: Database, coordinator: bytes) -> None:
    """Copies the books from the state folder to a database that was named in their place, once; it is claimed already.

    Raises:
        BooksElsewhereError: when they were moved to another database before, and this one is empty.
        FolkmootError: when they cannot be read or written, or are another coordinator's.
    """
    old = folder / BOOKS_FILE
    if database.is_at(old):
        return
    if not old.exists():
        if _moved(folder).exists() and not database.read(_begun):
            raise _elsewhere(folder, database)
        return
    file = Database(BooksSettings(), folder)
    try:
        file.claim(coordinator)
        moved = file.read(lambda source: database.write(partial(_copy, source, old), long=True))
    finally:
        file.close()
    if moved:
        log.warning("what was in %s is in %s now", old, database.where)
        old.rename(_moved(folder))
    else:
        log.warning("%s is not used: %s are in use already", old, database.where)


def _copy(source: Connection, old: Path, connection: Connection) -> bool:
    """Copies every row, unless that was done or something is there already; whether the rows are there now."""
    if _noted(connection):
        return True
    if _begun(connection):
        return False
    for table in metadata.sorted_tables:
        query = select(table)
        if table is facts:
            query = query.where(facts.c.name != COORDINATOR_FACT)
        upsert(connection, table, [dict(row._mapping) for row in source.execute(query)])
    upsert(connection, facts, [{"name": _MOVED_FACT, "value": str(old)}])
    return True


def _noted(connection: Connection) -> bool:
    query = select(facts.c.name).where(facts.c.name == _MOVED_FACT)
    return connection.execute(query).first() is not None


def _begun(connection: Connection) -> bool:
    """Whether anything was ever written there."""
    return any(_has_rows(connection, table) for table in metadata.sorted_tables)


def _has_rows(connection: Connection, table: Table) -> bool:
    query = select(table).limit(1)
    if table is facts:
        query = query.where(facts.c.name != COORDINATOR_FACT)
    return connection.execute(query).first() is not None


def _moved(folder: Path) -> Path:
    return folder / (BOOKS_FILE + TAKEN_SUFFIX)


def _elsewhere(folder: Path, database: Database) -> BooksElsewhereError:
    return BooksElsewhereError(
        f"the books were moved from {folder} to another database, and {database.where} are empty: convicted nodes could come back",
        advice=f"name that database with --books, or rename {_moved(folder)} to {BOOKS_FILE} to go on with what it has",
    )
