"""The node's side of receipts on one link: checks them, agrees with them, and keeps them.

Guarantees: neither answers nor pings wait for a receipt; what does not agree with what this node has done is said in its log,
counted, kept, and not agreed with; nothing that comes as a receipt ends the node. At most `MOST_WAITING` wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import FolkmootError, TrustError, WireError
from ..protos.folkmoot.v1 import link_pb2
from ..trust.logged_receipts import MAX_LOGGED_BYTES, LoggedReceipt
from ..trust.receipts import Acknowledgement, Receipt, ReceiptError, SignedReceipt
from .receipt_folder import ReceiptFolder
from .receipts import ReceiptMismatchError, ReceiptWindow
from .session import Session
from .tasks import in_thread

log = logging.getLogger(__name__)

MOST_WAITING: Final = 256


class TooManyReceiptsError(WireError):
    """Receipts come faster than they can be checked."""


@dataclass
class ReceiptCounts:
    """What receipts have come to, over all links of this process.

    Attributes:
        agreed: Receipts that are as they must be.
        results: Results that they cover.
        disputed: Receipts that are not.
        omitted: Answers that receipts name as not accepted.
        logged: Proofs that a receipt stands in the public log.
    """

    agreed: int = 0
    results: int = 0
    disputed: int = 0
    omitted: int = 0
    logged: int = 0


class ReceiptKeeper:
    """The receipts of one link. All but `run`'s checks, which have a thread, belongs to the event loop."""

    def __init__(
        self,
        session: Session,
        folder: ReceiptFolder,
        counts: ReceiptCounts,
        send: Callable[[link_pb2.NodeMessage], None],
    ) -> None:
        self._session = session
        self._folder = folder
        self._counts = counts
        self._send = send
        self._window: ReceiptWindow | None = None
        self._newest = 0
        self._waiting: asyncio.Queue[Callable[[], link_pb2.NodeMessage | None]] = asyncio.Queue(MOST_WAITING)

    def follow(self, window: ReceiptWindow) -> None:
        """Receipts are compared with this from now on."""
        self._window = window

    def came(self, sequence: int) -> None:
        """A frame came."""
        self._newest = max(self._newest, sequence)

    def take(self, receipt: link_pb2.Receipt) -> None:
        """Takes a receipt. Raises TooManyReceiptsError."""
        window, newest = self._window, self._newest
        self._put(lambda: self._check(receipt, window, newest))

    def take_logged(self, message: link_pb2.LoggedReceipt) -> None:
        """Takes the proof that a receipt stands in the public log. Raises TooManyReceiptsError."""
        self._put(lambda: self._check_logged(message))

    async def run(self) -> None:
        """Checks what comes, for as long as the link lives."""
        while True:
            check = await self._waiting.get()
            message = await in_thread(check)
            if message is not None:
                self._send(message)

    def _put(self, check: Callable[[], link_pb2.NodeMessage | None]) -> None:
        try:
            self._waiting.put_nowait(check)
        except asyncio.QueueFull:
            raise TooManyReceiptsError(f"{MOST_WAITING} receipts wait to be checked") from None

    def _check(
        self, message: link_pb2.Receipt, window: ReceiptWindow | None, newest: int
    ) -> link_pb2.NodeMessage | None:
        counts, signed = self._counts, None
        try:
            signed = SignedReceipt.decode(message.statement + message.signature)
            if window is None:
                raise ReceiptMismatchError("a receipt came before there was anything to answer")
            omitted = window.check(signed, frozenset(message.omitted), newest)
        except TrustError as error:
            log.error("the coordinator's books are not this node's: %s", error)
            if signed is not None and isinstance(error, ReceiptMismatchError):
                self._kept(lambda: self._folder.dispute(signed))
            counts.disputed += 1
            return None
        receipt = signed.receipt
        if omitted:
            counts.omitted += len(omitted)
            log.warning(
                "the coordinator did not accept %d answers up to frame %d: they came too late, or were refused or not needed "
                "(the first: frame %d)",
                len(omitted),
                receipt.through,
                omitted[0],
            )
        self._kept(lambda: self._folder.keep(signed))
        counts.agreed += 1
        counts.results += receipt.count
        log.debug("receipt %d: %d results accepted, %d in all", receipt.number, receipt.count, receipt.total)
        return self._acknowledgement(receipt)

    def _acknowledgement(self, receipt: Receipt) -> link_pb2.NodeMessage:
        statement = Acknowledgement(receipt.digest())
        return link_pb2.NodeMessage(
            acknowledgement=link_pb2.Acknowledgement(
                receipt=statement.receipt, signature=self._session.identity.sign(statement.encode())
            )
        )

    def _check_logged(self, message: link_pb2.LoggedReceipt) -> None:
        try:
            logged = LoggedReceipt.decode(message.logged[: MAX_LOGGED_BYTES + 1])
            logged.check()
            receipt, session = logged.signed.receipt, self._session
            if (receipt.coordinator, receipt.node) != (session.coordinator_key, session.identity.public):
                raise ReceiptError("a proof came of a receipt that is not this node's")
        except TrustError as error:
            self._counts.disputed += 1
            log.error("a proof that a receipt is in the public log shows nothing: %s", error)
            return
        if self._kept(lambda: self._folder.keep_logged(logged)):
            self._counts.logged += 1

    def _kept(self, keep: Callable[[], None]) -> bool:
        try:
            keep()
            return True
        except FolkmootError as error:
            log.warning("a receipt is not kept: %s", error)
            return False
