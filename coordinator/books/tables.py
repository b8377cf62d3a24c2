"""The tables of the books, as the code that is running knows them; `migrations` make them.

Guarantees: a count that can outgrow 64 bits is exact in every database: NUMERIC where that is exact, decimal digits in SQLite,
which would turn it into a float; what is read is a Python int.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
)

WHOLE_DIGITS: Final = 60


class Whole(TypeDecorator[int]):
    """A whole number of up to 60 digits."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Digits in SQLite, a number elsewhere."""
        exact = Text() if dialect.name == "sqlite" else Numeric(WHOLE_DIGITS, 0)
        return dialect.type_descriptor(exact)

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        """What the database takes."""
        if value is None:
            return None
        return str(int(value)) if dialect.name == "sqlite" else Decimal(int(value))

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """What the database gave."""
        return None if value is None else int(value)


metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""Whose books they are, and what has been done to them once."""

owners = Table(
    "owners",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("public_name", Text, nullable=False),
    Column("created_unix_s", BigInteger, nullable=False),
)
"""Contributors that the operator has invited by name."""

invites = Table(
    "invites",
    metadata,
    Column("invite", Text, primary_key=True),
    Column("owner", Text, ForeignKey("owners.owner"), nullable=False),
    Column("created_unix_s", BigInteger, nullable=False),
)
"""Invites of owners by number; what they carry is derived from the join secret, which is not here."""

nodes = Table(
    "nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("owner", Text, ForeignKey("owners.owner")),
    Column("software", Text, nullable=False),
    Column("first_unix_s", BigInteger, nullable=False),
    Column("enrolled_unix_s", BigInteger, nullable=False),
)
"""Every node that ever enrolled."""

tickets = Table(
    "tickets",
    metadata,
    Column("ticket", Text, primary_key=True),
    Column("node", Text, nullable=False, index=True),
    Column("issued_unix_s", BigInteger, nullable=False),
    Column("expires_unix_s", BigInteger, nullable=False),
)
"""The newest ticket of each node, by its SHA-256."""

holdings = Table(
    "holdings",
    metadata,
    Column("manifest", Text, primary_key=True),
    Column("node", Text, primary_key=True),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("experts", Text, nullable=False),
)
"""What each node was told to hold of each model."""

states = Table(
    "states",
    metadata,
    Column("node", Text, primary_key=True),
    Column("since_us", BigInteger, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
)
"""Changes of nodes' states."""

standings = Table(
    "standings",
    metadata,
    Column("node", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_s", Double, nullable=False),
    Column("passed", Integer, nullable=False),
    Column("strikes", Text, nullable=False),
    Column("admitted_s", Double, nullable=False),
)
"""How far each node is trusted."""

sessions = Table(
    "sessions",
    metadata,
    Column("session", Text, primary_key=True),
    Column("node", Text, nullable=False, index=True),
    Column("number", BigInteger, nullable=False),
    Column("results", Whole, nullable=False),
    Column("rows", Whole, nullable=False),
    Column("row_bytes", Whole, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("issued_unix_s", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),
    Column("logged", BigInteger, nullable=False),
    Column("shown", BigInteger, nullable=False),
    Column("proof", LargeBinary),
)
"""The newest receipt of each session: its number, what it comes to, and its signed bytes; the number up to which the node has
agreed; the number of the newest that the public log has, with the proof; and the number of the last proof that it was sent."""

credits = Table(
    "credits",
    metadata,
    Column("node", Text, primary_key=True),
    Column("results", Whole, nullable=False),
    Column("rows", Whole, nullable=False),
    Column("row_bytes", Whole, nullable=False),
)
"""What each node is owed: the sums over all receipts that it was ever given."""
