"""What a node has answered and has no receipt for yet, and whether a receipt says so.

Guarantees: a receipt is agreed with only when it is signed by the coordinator, follows the one before it in this session, reaches
no frame that never came, and covers exactly what was answered, in order, but for frames that it names as omitted. Once one was
not so, none of the session is agreed with any more. At most `MOST_OPEN` results are remembered, and only digests of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import Final

import numpy as np

from ..models.manifest import Manifest
from ..models.work_meter import WorkMeter
from ..protos.folkmoot.v1 import link_pb2
from ..trust import merkle
from ..trust.receipts import CreditedResult, Receipt, ReceiptChain, ReceiptError, SignedReceipt
from ..trust.statements import ResultStatement
from .session import Session

MOST_OPEN: Final = 1 << 16


class ReceiptMismatchError(ReceiptError):
    """A receipt is not what this node has done."""


class ReceiptWindow:
    """One session's answers. `answered` belongs to the thread that answers, all else to one other at a time.

    Attributes:
        last: The newest receipt that was agreed with.
        disputed: Whether a receipt of the session was not as it must be.
    """

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self.last: SignedReceipt | None = None
        self.disputed = False
        self._chain = ReceiptChain(
            session.coordinator_key, session.identity.public, session.session, session.manifest_digest
        )
        self._meter = WorkMeter(manifest)
        self._open: deque[CreditedResult] = deque()
        self._lock = threading.Lock()
        self._before: Receipt | None = None
        self._forgotten = 0

    @property
    def waiting(self) -> int:
        """Answers without a receipt."""
        return len(self._open)

    def answered(self, frame: link_pb2.Frame, statement: ResultStatement) -> None:
        """Remembers an answer to a frame that has been checked."""
        experts = np.frombuffer(frame.experts.data, "<i4")
        result = CreditedResult(
            frame.sequence,
            merkle.leaf_hash(statement.encode()),
            len(experts),
            self._meter.row_bytes(frame.layer, experts),
        )
        with self._lock:
            self._open.append(result)
            if len(self._open) > MOST_OPEN:
                self._forgotten = self._open.popleft().sequence

    def check(self, signed: SignedReceipt, omitted: Collection[int], newest: int) -> list[int]:
        """Takes a receipt; returns the frames that were answered and that it names as omitted.

        Args:
            signed: What came.
            omitted: Frames of which it says that no result was accepted.
            newest: The last frame that came before it.

        Raises:
            ReceiptMismatchError: when the receipt, or one before it in the session, is not what was done.
            SignatureError: when the coordinator did not sign it.
        """
        receipt = signed.receipt
        with self._lock:
            reached = [result for result in self._open if result.sequence <= receipt.through]
        before = self._before.through if self._before is not None else 0
        try:
            self._chain.check(signed, self._before, reached, omitted)
            if receipt.through > newest:
                raise ReceiptError(
                    f"receipt {receipt.number} reaches frame {receipt.through}, which never came"
                )
            if self._forgotten > before:
                raise ReceiptError(f"receipt {receipt.number} comes so late that answers were forgotten")
        except ReceiptError as error:
            self.disputed = True
            self._follow(receipt)
            raise ReceiptMismatchError(
                error.message, advice="ask the operator; what the coordinator signed is kept"
            ) from error
        self._follow(receipt)
        if self.disputed:
            raise ReceiptMismatchError(f"receipt {receipt.number} follows one that was not as it must be")
        self.last = signed
        return [result.sequence for result in reached if result.sequence in omitted]

    def _follow(self, receipt: Receipt) -> None:
        self._before = receipt
        with self._lock:
            while self._open and self._open[0].sequence <= receipt.through:
                self._open.popleft()
