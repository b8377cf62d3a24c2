"""How the tables came to be, step by step, for books of any age.

Guarantees: a step and the note that it was taken are one transaction, so books are of one version or the next, whatever ends the
process; steps only go forward, and one that was released never changes; books of a later version are refused, untouched. Steps
are SQL text and know nothing of today's `tables`.
"""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Connection, inspect, text

from .errors import ForeignBooksError

VERSION_TABLE: Final = "versions"
_TYPES: Final = {
    "sqlite": {"bytes": "BLOB", "whole": "TEXT", "real": "DOUBLE"},
    "postgresql": {"bytes": "BYTEA", "whole": "NUMERIC(60, 0)", "real": "DOUBLE PRECISION"},
}

STEPS: list[tuple[str, ...]] = [
    (
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE owners (owner TEXT PRIMARY KEY, public_name TEXT NOT NULL, created_unix_s BIGINT NOT NULL)",
        "CREATE TABLE invites (invite TEXT PRIMARY KEY, owner TEXT NOT NULL REFERENCES owners (owner),"
        " created_unix_s BIGINT NOT NULL)",
        "CREATE TABLE nodes (node TEXT PRIMARY KEY, name TEXT NOT NULL, owner TEXT REFERENCES owners (owner),"
        " software TEXT NOT NULL, first_unix_s BIGINT NOT NULL, enrolled_unix_s BIGINT NOT NULL)",
        "CREATE TABLE tickets (ticket TEXT PRIMARY KEY, node TEXT NOT NULL, issued_unix_s BIGINT NOT NULL,"
        " expires_unix_s BIGINT NOT NULL)",
        "CREATE INDEX ix_tickets_node ON tickets (node)",
        "CREATE TABLE holdings (manifest TEXT NOT NULL, node TEXT NOT NULL, memory_bytes BIGINT NOT NULL,"
        " experts TEXT NOT NULL, PRIMARY KEY (manifest, node))",
        "CREATE TABLE states (node TEXT NOT NULL, since_us BIGINT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,"
        " PRIMARY KEY (node, since_us))",
        "CREATE TABLE standings (node TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,"
        " since_s {real} NOT NULL, passed INTEGER NOT NULL, strikes TEXT NOT NULL)",
        "CREATE TABLE sessions (session TEXT PRIMARY KEY, node TEXT NOT NULL, number BIGINT NOT NULL,"
        " results {whole} NOT NULL, rows {whole} NOT NULL, row_bytes {whole} NOT NULL, receipt {bytes} NOT NULL,"
        " issued_unix_s BIGINT NOT NULL, acknowledged BIGINT NOT NULL, logged BIGINT NOT NULL, shown BIGINT NOT NULL,"
        " proof {bytes})",
        "CREATE INDEX ix_sessions_node ON sessions (node)",
        "CREATE TABLE credits (node TEXT PRIMARY KEY, results {whole} NOT NULL, rows {whole} NOT NULL,"
        " row_bytes {whole} NOT NULL)",
    ),
    (
        # Whom the operator had admitted was not noted: nothing that was found before it came to stand as it does counts again.
        "ALTER TABLE standings ADD COLUMN admitted_s {real} NOT NULL DEFAULT 0",
        "UPDATE standings SET admitted_s = since_s WHERE status IN ('probation', 'member')",
    ),
]
"""What leads from each version to the next; the first, from nothing to version 1."""


def version(connection: Connection) -> int:
    """The version of the books; 0 when there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return 0
    found = connection.execute(text(f"SELECT max(version) FROM {VERSION_TABLE}")).scalar()
    return int(found or 0)


def check(connection: Connection, where: str) -> int:
    """The version, when this software can read it.

    Raises:
        ForeignBooksError: when the books are of a later version.
    """
    found = version(connection)
    if found > len(STEPS):
        raise ForeignBooksError(
            f"{where} is of version {found}, and this software knows {len(STEPS)} at most",
            advice="update folkmoot: an older one must not write there",
        )
    return found


def migrate(connection: Connection, where: str) -> int:
    """Brings the books to today's version, inside the transaction that has begun; returns the version they were of.

    Raises:
        ForeignBooksError: when the books are of a later version.
    """
    before = check(connection, where)
    types = _TYPES[connection.dialect.name]
    if before == 0:
        connection.execute(
            text(
                f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version INTEGER PRIMARY KEY, taken_unix_s BIGINT NOT NULL)"
            )
        )
    for number, step in enumerate(STEPS[before:], before + 1):
        for statement in step:
            connection.execute(text(statement.format(**types)))
        connection.execute(
            text(f"INSERT INTO {VERSION_TABLE} (version, taken_unix_s) VALUES (:version, :now)"),
            {"version": number, "now": int(time.time())},
        )
    return before
