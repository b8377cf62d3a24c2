"""Writing rows whether they are there or not, in the words of either database.

Guarantees: after `upsert` each row is what it was given as, and doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], keep: Sequence[str] = ()
) -> None:
    """Inserts rows, or gives those that are there these values, but for the columns to `keep`."""
    if not rows:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {name: insert.excluded[name] for name in rows[0] if name not in keys and name not in keep}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))
