"""Receipts and credits: what each session's newest receipt says, and what each node is owed for all of its sessions.

Guarantees: a receipt and the credit for it are written in one transaction, so at every moment what the books owe a node is exactly
what its receipts in the books come to (but for credit from before there were books); both are written as they are, not as
differences, so writing twice credits once. `owed` is what is durable; nothing else may be told to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final

from sqlalchemy import Column, Connection, bindparam, case, delete, or_, select, update

from ...ids import NodeId
from ...trust.logged_receipts import LoggedReceipt
from ...trust.receipts import Receipt, SignedReceipt
from .credit import Credit
from .database import Database
from .tables import credits, sessions
from .upsert import upsert
from .writer import BooksWriter

MOST_PROOFS: Final = 64
"""How many sessions' proofs a node gets when it is back: those first that were never sent, and of these the newest."""

SENT_AGAIN: Final = 4
"""How many of the newest it gets in any case: what was queued last may never have left."""


class ReceiptBook:
    """The receipts of one coordinator. Any thread, but for `receipted`, which is for one.

    Attributes:
        is_open: Whether a session may get more receipts; such a one is not forgotten. Asked in any thread.
    """

    def __init__(self, database: Database, writer: BooksWriter) -> None:
        self._database = database
        self._writer = writer
        self._group = group = writer.group("receipts and credits")
        self._receipts = group.staged(_write_receipts)
        self._credits = group.staged(_write_credits, self._durable)
        self._agreed = group.staged(_write_agreed)
        self._proofs = group.staged(_write_proofs)
        self._shown = group.staged(_write_shown)
        self.is_open: Callable[[bytes], bool] = lambda session: False
        self._counted: dict[NodeId, Credit] = {}
        self._owed: dict[NodeId, Credit] = {}

    def load(self, connection: Connection) -> None:
        """Reads what is owed."""
        self._owed = all_credits(connection)
        self._counted = dict(self._owed)

    def owed(self) -> dict[NodeId, Credit]:
        """What every node is owed, as it is on disk."""
        with self._group.lock:
            return dict(self._owed)

    def receipted(self, signed: SignedReceipt, results: int, rows: int, row_bytes: int) -> Credit:
        """A receipt was signed that adds so much to a node's credit; returns what the node is owed with it.

        It must not leave this process before a `flush` after it is done.
        """
        receipt = signed.receipt
        node = NodeId(receipt.node.hex())
        with self._group.lock:
            owed = self._counted.get(node, Credit()).plus(results, rows, row_bytes)
            self._counted[node] = owed
            self._receipts.put(receipt.session.hex(), signed)
            self._credits.put(node, owed)
        return owed

    def agreed(self, session: bytes, number: int) -> None:
        """The node agreed with a receipt, and so with all before it. Need not be waited for."""
        self._agreed.put(session.hex(), number)

    def logged(self, proof: LoggedReceipt) -> None:
        """A receipt stands in the public log."""
        self._proofs.put(proof.signed.receipt.session.hex(), proof)

    def shown(self, proof: LoggedReceipt) -> None:
        """The proof was sent to its node."""
        self._shown.put(proof.signed.receipt.session.hex(), proof.signed.receipt.number)

    def flush(self) -> Future[None]:
        """Done when all that was told so far is durable, however long that takes."""
        return self._writer.flush(self._group)

    def unlogged(self) -> list[SignedReceipt]:
        """Newest receipts that the public log is not known to have. Blocks."""
        query = select(sessions.c.receipt).where(sessions.c.logged < sessions.c.number)
        found = self._database.read(lambda connection: connection.execute(query).scalars().all())
        return [SignedReceipt.decode(data) for data in found]

    def proofs_for(self, node: NodeId) -> list[LoggedReceipt]:
        """Proofs for a node that is back: of receipts that it has not agreed with, and those that were never sent. At most
        `MOST_PROOFS`: those that were never sent before others, and the newest before older ones; besides, the newest
        `SENT_AGAIN` of all. In the order of time. Blocks.
        """
        newest = (
            select(sessions.c.proof)
            .where(sessions.c.node == node, sessions.c.logged > 0)
            .order_by(sessions.c.issued_unix_s.desc(), sessions.c.session)
            .limit(SENT_AGAIN)
        )
        query = (
            select(sessions.c.proof)
            .where(sessions.c.node == node, sessions.c.logged > 0)
            .where(or_(sessions.c.acknowledged < sessions.c.logged, sessions.c.shown < sessions.c.logged))
            .order_by(
                case((sessions.c.shown < sessions.c.logged, 0), else_=1),
                sessions.c.issued_unix_s.desc(),
                sessions.c.session,
            )
            .limit(MOST_PROOFS)
        )

        def read(connection: Connection) -> set[bytes]:
            return {data for one in (query, newest) for data in connection.execute(one).scalars()}

        proofs = [LoggedReceipt.decode(data) for data in self._database.read(read)]
        return sorted(proofs, key=lambda one: (one.signed.receipt.issued_unix_s, one.signed.receipt.session))

    def _durable(self, written: dict[NodeId, Credit]) -> None:
        self._owed.update(written)


def all_credits(connection: Connection) -> dict[NodeId, Credit]:
    """What every node is owed."""
    found = connection.execute(select(credits))
    return {NodeId(row.node): Credit(row.results, row.rows, row.row_bytes) for row in found}


def forget_sessions(connection: Connection, before_unix_s: int, is_open: Callable[[bytes], bool]) -> None:
    """Forgets sessions that have ended, whose last receipt is older and in the public log; what they earned stays in the credits."""
    query = select(sessions.c.session).where(
        sessions.c.issued_unix_s < before_unix_s, sessions.c.logged >= sessions.c.number
    )
    gone = [{"of": one} for one in connection.execute(query).scalars() if not is_open(bytes.fromhex(one))]
    if gone:
        connection.execute(delete(sessions).where(sessions.c.session == bindparam("of")), gone)


def write_credits(connection: Connection, owed: Iterable[tuple[NodeId, Credit]]) -> None:
    """Sets what nodes are owed."""
    rows = [
        {"node": node, "results": credit.results, "rows": credit.rows, "row_bytes": credit.row_bytes}
        for node, credit in owed
    ]
    upsert(connection, credits, rows)


def _write_credits(connection: Connection, owed: dict[NodeId, Credit]) -> None:
    write_credits(connection, owed.items())


def _write_receipts(connection: Connection, signed: dict[str, SignedReceipt]) -> None:
    rows = [_row(session, one, one.receipt) for session, one in signed.items()]
    upsert(connection, sessions, rows, keep=("acknowledged", "logged", "shown"))


def _row(session: str, signed: SignedReceipt, receipt: Receipt) -> dict[str, object]:
    return {
        "session": session,
        "node": receipt.node.hex(),
        "number": receipt.number,
        "results": receipt.total,
        "rows": receipt.rows,
        "row_bytes": receipt.row_bytes,
        "receipt": signed.encode(),
        "issued_unix_s": receipt.issued_unix_s,
        "acknowledged": 0,
        "logged": 0,
        "shown": 0,
    }


def _write_agreed(connection: Connection, numbers: dict[str, int]) -> None:
    _set_number(connection, sessions.c.acknowledged, numbers)


def _write_shown(connection: Connection, numbers: dict[str, int]) -> None:
    _set_number(connection, sessions.c.shown, numbers)


def _set_number(connection: Connection, column: Column[int], numbers: dict[str, int]) -> None:
    change = update(sessions).where(sessions.c.session == bindparam("of")).values({column: bindparam("to")})
    connection.execute(change, [{"of": session, "to": number} for session, number in numbers.items()])


def _write_proofs(connection: Connection, proofs: dict[str, LoggedReceipt]) -> None:
    change = (
        update(sessions)
        .where(sessions.c.session == bindparam("of"))
        .values(logged=bindparam("to"), proof=bindparam("bytes"))
    )
    rows = [
        {"of": session, "to": proof.signed.receipt.number, "bytes": proof.encode()}
        for session, proof in proofs.items()
    ]
    connection.execute(change, rows)
