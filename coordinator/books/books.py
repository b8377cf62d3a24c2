"""The books of one coordinator: everything that it must not forget, but for what is public record anyway.

Guarantees: nothing that uses the books waits for a database; what was acknowledged, a receipt, a ticket, a verdict, an operator's
order, was durable first; when the books cannot be written the coordinator goes on, says so, and tries again. A coordinator
starts only with books that can be read and written and are its own.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from ...errors import FolkmootError
from ...ids import NodeId
from ...models.manifest import Manifest
from .accounts import accounts, leaderboard
from .contributors import Contributors, forget_nodes, forget_tickets
from .database import Database
from .moving import move_in, refuse_new_file
from .old_files import take_over
from .placement_memory import PlacementMemory
from .receipt_book import ReceiptBook, forget_sessions
from .settings import BooksSettings
from .standings import StandingShelf
from .states import StateHistory, forget_states
from .tables import facts
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
        self._writer = writer = BooksWriter(database, self._forget)
        self._keep_s = settings.keep_days * _DAY_S
        self.receipts = ReceiptBook(database, writer)
        self.standings = StandingShelf(writer)
        self.contributors = Contributors(database, writer)
        self.states = StateHistory(writer)
        self._placement = writer.group("what nodes hold", parted=True)
        try:
            refuse_new_file(folder, database)
            database.claim(coordinator)
            move_in(folder, database, coordinator)
            take_over(folder, database)
            self._forget()
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

    def _forget(self) -> None:
        """Forgets what is old, now and daily; in the thread that writes, so that nothing changes meanwhile."""
        oldest_unix_s = int(time.time()) - self._keep_s

        def forget(connection: Connection) -> list[NodeId]:
            forget_sessions(connection, oldest_unix_s, self.receipts.is_open)
            forget_states(connection, oldest_unix_s)
            forget_tickets(connection, oldest_unix_s)
            return forget_nodes(connection, oldest_unix_s)

        try:
            gone = self._database.write(forget, long=True)
        except FolkmootError as error:  # too much to be forgotten at once, say: no reason not to go on
            log.warning("what is old cannot be forgotten: %s", error)
        else:
            self.contributors.forgotten(gone, oldest_unix_s)

    def _load(self, connection: Connection) -> None:
        self.receipts.load(connection)
        self.standings.load(connection)
        self.contributors.load(connection)
