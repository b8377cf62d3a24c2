"""The books as commands see them, which run beside the coordinator or without it.

Guarantees: nothing is made where nothing is, and nothing changed but what `invite` adds; books of another version are refused.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, select

from ...errors import UsageError
from ...ids import NodeId
from . import migrations
from .accounts import Account, accounts
from .books import ADDRESS_FACT
from .contributors import all_nodes, all_owners, invite_secret, new_invite
from .database import COORDINATOR_FACT, Database
from .errors import ForeignBooksError
from .receipt_book import all_credits
from .settings import BooksSettings
from .standings import all_standings
from .states import StateChange, history
from .tables import facts


class NoBooksError(UsageError):
    """There are no books where they are said to be."""


class Visitor:
    """Somebody who looks into the books; a context manager."""

    def __init__(self, settings: BooksSettings, folder: Path) -> None:
        """`folder` is the coordinator's state folder.

        Raises:
            NoBooksError: when no coordinator has begun them.
            FolkmootError: when they cannot be read.
        """
        self._database = database = Database(settings, folder)
        try:
            found = database.read(lambda one: migrations.check(one, database.where)) if database.there else 0
            if found == 0:
                raise NoBooksError(
                    f"there are no books yet: {database.where}",
                    advice="start the coordinator once, or name its state folder with --state, its database with --books",
                )
            if found < len(migrations.STEPS):
                raise ForeignBooksError(
                    f"{database.where} are of version {found}, older than this software",
                    advice="start the coordinator once: it brings them to today's",
                )
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def accounts(self) -> list[Account]:
        """What each contributor has come to; whoever did more comes first."""

        def read(connection: Connection) -> list[Account]:
            return accounts(all_credits(connection), all_nodes(connection), all_owners(connection))

        return self._database.read(read)

    def known(self) -> list[NodeId]:
        """Every node that was ever met, in order."""
        return self._database.read(
            lambda connection: sorted(all_nodes(connection).keys() | all_standings(connection).keys())
        )

    def history(self, node: NodeId, most: int) -> list[StateChange]:
        """The newest changes of a node's state, oldest first."""
        return self._database.read(lambda connection: history(connection, node, most))

    def coordinator(self) -> bytes:
        """Whose books they are: a public key."""
        query = select(facts.c.value).where(facts.c.name == COORDINATOR_FACT)
        return bytes.fromhex(self._database.read(lambda connection: connection.execute(query).scalar()) or "")

    def address(self) -> str | None:
        """Where invites lead to: host and port, as the coordinator said when it last started."""
        query = select(facts.c.value).where(facts.c.name == ADDRESS_FACT)
        return self._database.read(lambda connection: connection.execute(query).scalar())

    def invite(self, owner: str, public_name: str | None, join_secret: bytes) -> bytes:
        """What a new invite of an owner carries; a running coordinator knows it as soon as it is used.

        Args:
            owner: What the operator calls the person.
            public_name: What everybody may; None leaves it as it is.
            join_secret: The coordinator's.

        Raises:
            OwnerNameError: when nobody can be called that.
            FolkmootError: when the books cannot be written.
        """
        number = self._database.write_beside(
            lambda connection: new_invite(connection, owner, public_name, int(time.time()))
        )
        return invite_secret(join_secret, number)
