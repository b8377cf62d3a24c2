"""Where the books keep how nodes stand: the shelf of a `StandingBook`.

Guarantees: `save` returns None once all that was put is durable; otherwise why it is not, and it is tried again. Standings that
make no sense are refused when they are read, for convicted nodes could come back.
"""

from __future__ import annotations

import json
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from ...errors import FolkmootError
from ...ids import NodeId
from ...trust.standing import Standing, Status
from ..audit.standing_book import Record
from .errors import BooksDamagedError, BooksUnavailableError
from .tables import standings
from .texts import storable
from .upsert import upsert
from .writer import BooksWriter

SAVE_WITHIN_S: Final = 15.0
"""Longer than any database is waited for."""


class StandingShelf:
    """The standings of one coordinator. Any thread."""

    def __init__(self, writer: BooksWriter) -> None:
        self._writer = writer
        self._group = writer.group("nodes' standings", parted=True)
        self._changes = self._group.staged(_write)
        self._loaded: dict[NodeId, Record] = {}

    def load(self, connection: Connection) -> None:
        """Reads how nodes stand. Raises BooksDamagedError when that makes no sense."""
        self._loaded = all_standings(connection)

    def take_all(self) -> dict[NodeId, Record]:
        """How every node stood when the books were opened."""
        loaded, self._loaded = self._loaded, {}
        return loaded

    def put(self, node: NodeId, record: Record | None) -> None:
        """How a node stands now; None to forget it."""
        self._changes.put(node, (record,))

    @property
    def saved(self) -> bool:
        """Whether all that was put is durable."""
        return not len(self._changes)

    def save(self) -> FolkmootError | None:
        """Waits until all that was put is durable, or cannot be made so now."""
        if self.saved:
            return None
        if (fault := self._writer.fault(self._group)) is not None:
            return fault
        try:
            self._writer.flush(self._group, once=True).result(SAVE_WITHIN_S)
        except FolkmootError as error:
            return error
        except NotYetError:
            return BooksUnavailableError("the books do not answer")
        return None


def all_standings(connection: Connection) -> dict[NodeId, Record]:
    """How every node stands. Raises BooksDamagedError."""
    try:
        return {NodeId(row.node): _record(row) for row in connection.execute(select(standings))}
    except (ValueError, TypeError) as error:
        raise BooksDamagedError(
            f"the books say how a node stands in a way that makes no sense ({error})",
            advice="restore them from a copy; without it, convicted nodes could come back",
        ) from error


def write_standings(connection: Connection, records: dict[NodeId, Record]) -> None:
    """Sets how nodes stand."""
    rows = [
        {
            "node": node,
            "name": storable(record.name),
            "status": record.standing.status.value,
            "reason": storable(record.standing.reason),
            "since_s": record.standing.since_s,
            "passed": record.standing.passed,
            "strikes": json.dumps(record.standing.strikes_s),
            "admitted_s": record.standing.admitted_s,
        }
        for node, record in records.items()
    ]
    upsert(connection, standings, rows)


def _write(connection: Connection, changes: dict[NodeId, tuple[Record | None]]) -> None:
    gone = [node for node, (record,) in changes.items() if record is None]
    for node in gone:
        connection.execute(delete(standings).where(standings.c.node == node))
    write_standings(connection, {node: record for node, (record,) in changes.items() if record is not None})


def _record(row: Any) -> Record:
    strikes = tuple(float(at) for at in json.loads(row.strikes))
    standing = Standing(Status(row.status), row.reason, row.since_s, row.passed, strikes, row.admitted_s)
    return Record(standing, row.name)
