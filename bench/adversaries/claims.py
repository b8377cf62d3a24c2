"""A node that claims more than it did: it agrees with receipts that it was not given.

Guarantees: its results and openings are right, and it agrees with what it is given as well; in each life of its link it makes one
claim, another each time, with the first receipt that comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from enum import Enum

from ...models.manifest import Manifest
from ...node.receipts import ReceiptWindow
from ...node.session import Session
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import Identity
from ...trust.receipts import Acknowledgement, Receipt, SignedReceipt
from .executors import Cheat, Seat

ROWS_NOT_DONE = 1_000_000


class Claim(Enum):
    """What is claimed."""

    ANOTHER_TOTAL = "the receipt that it was given, with more in it"
    ANOTHER_SIGNER = "the receipt that it was given, for somebody else"
    NEVER_GIVEN = "the next receipt, for work that nobody asked for"


class ClaimingWindow(ReceiptWindow):
    """Agrees with what it should, and says of the first receipt that it came."""

    def __init__(self, session: Session, manifest: Manifest, on_first: Callable[[Receipt], None]) -> None:
        super().__init__(session, manifest)
        self._on_first: Callable[[Receipt], None] | None = on_first

    def check(self, signed: SignedReceipt, omitted: Collection[int], newest: int) -> list[int]:
        """As any node's."""
        found = super().check(signed, omitted, newest)
        on_first, self._on_first = self._on_first, None
        if on_first is not None:
            on_first(signed.receipt)
        return found


class Claimant(Cheat):
    """An executor that makes one claim."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self._claimed = list(Claim)[seat.life % len(Claim)]
        self.receipts = ClaimingWindow(seat.session, seat.manifest, self._claim)

    def _claim(self, receipt: Receipt) -> None:
        receipt, signer = claimed(self._claimed, receipt, self.session.identity)
        statement = Acknowledgement(receipt.digest())
        message = link_pb2.NodeMessage(
            acknowledgement=link_pb2.Acknowledgement(
                receipt=statement.receipt, signature=signer.sign(statement.encode())
            )
        )
        self._loop.call_soon_threadsafe(self._send, message, lambda: None)


def claimed(claim: Claim, receipt: Receipt, identity: Identity) -> tuple[Receipt, Identity]:
    """The receipt that is agreed with, and who signs that, where `receipt` was given to the node of this identity."""
    if claim is Claim.ANOTHER_SIGNER:
        return receipt, Identity.generate()
    more = dataclasses.replace(
        receipt, rows=receipt.rows + ROWS_NOT_DONE, row_bytes=receipt.row_bytes * ROWS_NOT_DONE
    )
    if claim is Claim.NEVER_GIVEN:
        more = dataclasses.replace(more, number=receipt.number + 1, previous=receipt.digest())
    return more, identity
