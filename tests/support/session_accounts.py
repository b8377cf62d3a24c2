"""What the books have of single sessions: nothing but tests asks for that.

Guarantees: reads the rows as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.tables import sessions
from folkmoot.ids import NodeId
from folkmoot.trust.receipts import SignedReceipt


@dataclass(frozen=True, slots=True)
class SessionAccount:
    """What the books have of one session.

    Attributes:
        session: Its id in hexadecimal.
        node: Whose it is.
        credit: What its receipts come to.
        receipt: The newest.
        acknowledged: The number of the receipt up to which the node has agreed.
        logged: The number of the newest of which the public log has proof.
        shown: The number of the last of which the node was sent the proof.
    """

    session: str
    node: NodeId
    credit: Credit
    receipt: SignedReceipt
    acknowledged: int
    logged: int
    shown: int


def all_sessions(connection: Connection) -> list[SessionAccount]:
    """Every session that has a receipt."""
    return [
        SessionAccount(
            row.session,
            NodeId(row.node),
            Credit(row.results, row.rows, row.row_bytes),
            SignedReceipt.decode(row.receipt),
            row.acknowledged,
            row.logged,
            row.shown,
        )
        for row in connection.execute(select(sessions))
    ]
