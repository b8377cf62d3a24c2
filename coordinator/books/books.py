"""The books of one coordinator: everything that it must not forget, but for what is public record anyway.

Guarantees: nothing that uses the books waits for a database; what was acknowledged, a receipt, a ticket, a verdict, an operator's
order, was durable first; when the books cannot be written the coordinator goes on, says so, and tries again. A coordinator
starts only with books that can be read and written and are its own.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, insert, select

from ...errors import FolkmootError
from ...ids import NodeId
from ...models.manifest import Manifest
from .accounts import accounts, leaderboard
from .books_url import BOOKS_FILE
from .contributors import Contributors, forget_tickets
from .database import COORDINATOR_FACT, Database
from .old_files import TAKEN_SUFFIX, take_over
from .placement_memory import PlacementMemory
from .receipt_book import ReceiptBook, forget_sessions
from .settings import BooksSettings
from .standings import StandingShelf
from .states import StateHistory, forget_states
from .tables import credits, facts, metadata, nodes, standings
from .upsert import upsert
from .writer import BooksWriter

log = logging.getLogger(__name__)

ADDRESS_FACT: Final = "address"
_DAY_S: Final = 86_400


class Books:
    """Opened with the coordinator, closed with it.

    Attributes:
        receipts: Receipts and credits.
        standings: The shelf of the standing book.
        contributors: Owners, nodes, invites, tickets.
        states: How nodes' states changed.
    """

    def __init__(self, settings: BooksSettings, folder: Path, coordinator: bytes) -> None:
        """Opens, or begins, the books of the coordinator with this public key. Blocks.

        Args:
            settings: Where they are.
            folder: The state folder, which is locked.
            coordinator: Its public key.

        Raises:
            FolkmootError: when they cannot be read and written, are damaged, or another's.
        """
        self._database = database = Database(settings, folder)
        self._writer = writer = BooksWriter(database)
        self.receipts = ReceiptBook(database, writer)
        self.standings = StandingShelf(writer)
        self.contributors = Contributors(database, writer)
        self.states = StateHistory(writer)
        self._placement = writer.group("what nodes hold", parted=True)
        try:
            database.claim(coordinator)
            _move_in(folder, database, coordinator)
            take_over(folder, database)
            oldest_unix_s = int(time.time()) - settings.keep_days * _DAY_S

            def forget(connection: Connection) -> None:
                forget_sessions(connection, oldest_unix_s)
                forget_states(connection, oldest_unix_s)
                forget_tickets(connection, oldest_unix_s)

            try:
                database.write(forget)
            except FolkmootError as error:  # what is too much to forget at once is no reason not to start
                log.warning("what is old cannot be forgotten: %s", error)
            database.read(self._load)
        except BaseException:
            database.close()
            raise
        writer.start()

    @property
    def writer(self) -> BooksWriter:
        """Who writes them: how much waits, and why."""
        return self._writer

    def placement(self, manifest: Manifest) -> PlacementMemory:
        """What nodes were told to hold of a model. Once for each."""
        return PlacementMemory(self._database, self._writer, self._placement, manifest)

    def owner_of(self, node: NodeId) -> str:
        """Whose a node is; its own id where nobody is known. Any thread, at once."""
        return self.contributors.owner_of(node)

    def leaderboard(self) -> dict[str, Any]:
        """Who has done how much, as everybody may see it. Any thread, at once."""
        people = self.contributors
        return leaderboard(accounts(self.receipts.owed(), people.known(), people.public_names()))

    def listens(self, address: str) -> None:
        """Keeps where invites lead to, so that they can be made without the coordinator. Blocks."""
        row = {"name": ADDRESS_FACT, "value": address}
        self._database.write(lambda connection: upsert(connection, facts, [row]))

    def close(self) -> None:
        """Writes what waits, for a bounded time. Blocks; twice is harmless."""
        self._writer.close()
        self._database.close()

    def _load(self, connection: Connection) -> None:
        self.receipts.load(connection)
        self.standings.load(connection)
        self.contributors.load(connection)


def _move_in(folder: Path, database: Database, coordinator: bytes) -> None:
    """Copies the books from the file in the state folder to a new database that was named in its place, once."""
    old = folder / BOOKS_FILE
    if database.is_file or not old.exists():
        return
    file = Database(BooksSettings(), folder)
    try:
        file.claim(coordinator)

        def copy(source: Connection, connection: Connection) -> int:
            used = any(
                connection.execute(select(table).limit(1)).first() is not None
                for table in (nodes, standings, credits)
            )
            if used:
                return 0
            copied = 0
            for table in metadata.sorted_tables:
                query = select(table)
                if table is facts:
                    query = query.where(facts.c.name != COORDINATOR_FACT)
                rows = [dict(row._mapping) for row in source.execute(query)]
                if rows:
                    connection.execute(insert(table), rows)
                copied += len(rows)
            return copied

        copied = file.read(lambda source: database.write(partial(copy, source)))
    finally:
        file.close()
    if copied:
        log.warning("%s: %d rows were moved there from %s", database.where, copied, old)
        old.rename(old.with_name(BOOKS_FILE + TAKEN_SUFFIX))
    else:
        log.warning("%s is not used: %s are in use already", old, database.where)
