"""What of receipts and credits goes into the public log, and the proofs that nodes get back.

Guarantees: a batch has the newest receipt of every session that had one since the batch before, each session once; one that the
log did not take, or was not known to have taken when this coordinator ended, goes into the next. Nothing is logged that is not in
the books. A node is sent the proof of its receipt when the entry is on the disk; the books keep it for one that is away. Credits
are logged for each node whose credit has changed. For one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from ...ids import NodeId
from ...protos.folkmoot.v1 import link_pb2
from ...trust import merkle
from ...trust.keys import Identity
from ...trust.log_entries import CreditEntry, LogEntry
from ...trust.logged_receipts import LoggedReceipt, batch_entry, batch_leaf, batch_of
from ...trust.receipts import SignedReceipt
from ..books.credit import Credit
from ..books.receipt_book import ReceiptBook
from .public_log import EntryLog
from .receipt_counters import ReceiptCounters
from .settings import ReceiptSettings

log = logging.getLogger(__name__)

Deliver = Callable[[NodeId, link_pb2.CoordinatorMessage, Callable[[], None]], None]
"""Sends a node a message, if it has a link, and calls back in this thread when it was queued there."""


@dataclass(frozen=True, slots=True)
class _Appended:
    """A batch on its way to the disk."""

    batch: list[SignedReceipt]
    entry: LogEntry
    future: Future[int]


class ReceiptBatches:
    """The batches of one coordinator."""

    def __init__(
        self,
        identity: Identity,
        entry_log: EntryLog,
        book: ReceiptBook,
        settings: ReceiptSettings,
        counters: ReceiptCounters,
    ) -> None:
        self._identity = identity
        self._entry_log = entry_log
        self._book = book
        self._settings = settings
        self._counters = counters
        self._changed: dict[bytes, SignedReceipt] = {}
        self._uncredited: dict[NodeId, Credit] = {}
        self._crediting: list[tuple[NodeId, Credit, Future[int]]] = []
        self._appended: _Appended | None = None
        self._logged_s: float | None = None
        self._credited_s: float | None = None

    def begin(self) -> None:
        """Takes up what the public log is not known to have from before. Raises a FolkmootError when the books cannot be read."""
        owed = self._book.owed()
        for signed in self._book.unlogged():
            node = NodeId(signed.receipt.node.hex())
            self.written(node, signed, owed.get(node, Credit()))

    def written(self, node: NodeId, signed: SignedReceipt, owed: Credit) -> None:
        """A receipt is in the books, and what its node is owed with it."""
        self._changed[signed.receipt.session] = signed
        self._uncredited[node] = owed

    def tick(self, now_s: float, unix_s: int, deliver: Deliver) -> None:
        """Does what is due."""
        if self._logged_s is None or self._credited_s is None:
            self._logged_s = self._credited_s = now_s
        if self._appended is not None and self._appended.future.done():
            self._settle(self._appended, deliver)
            self._appended = None
        if now_s - self._logged_s >= self._settings.log_every_s and self._appended is None:
            self._logged_s = now_s
            self._log_receipts(unix_s)
        if now_s - self._credited_s >= self._settings.credit_every_s:
            self._credited_s = now_s
            self._log_credits(unix_s)

    def finish(self, unix_s: int) -> None:
        """Hands all that is left to the log."""
        self._log_receipts(unix_s)
        self._log_credits(unix_s)

    def _log_receipts(self, unix_s: int) -> None:
        if not self._changed:
            return
        batch = batch_of(list(self._changed.values()))
        self._changed.clear()
        entry = LogEntry.signed(batch_entry(self._identity.public, batch, unix_s), self._identity)
        self._appended = _Appended(batch, entry, self._entry_log.append(entry))

    def _settle(self, appended: _Appended, deliver: Deliver) -> None:
        if (error := appended.future.exception()) is not None:
            self._unlogged("a batch of receipts is", error)
            self._changed = {one.receipt.session: one for one in appended.batch} | self._changed
            return
        self._counters.batches += 1
        index = appended.future.result()
        encoded = appended.entry.encode()
        proofs = merkle.inclusion_proofs([batch_leaf(signed) for signed in appended.batch])
        for place, (signed, proof) in enumerate(zip(appended.batch, proofs, strict=True)):
            logged = LoggedReceipt(signed, place, tuple(proof), encoded, index)
            message = link_pb2.CoordinatorMessage(
                logged_receipt=link_pb2.LoggedReceipt(logged=logged.encode())
            )
            node = NodeId(signed.receipt.node.hex())
            self._book.logged(logged)
            deliver(node, message, partial(self._book.shown, logged))

    def _log_credits(self, unix_s: int) -> None:
        for node, owed, future in self._crediting:
            if future.done() and (error := future.exception()) is not None:
                self._unlogged("a credit is", error)
                self._uncredited.setdefault(node, owed)
        self._crediting.clear()
        for node, owed in sorted(self._uncredited.items(), key=lambda one: one[0]):
            statement = CreditEntry(
                self._identity.public,
                bytes.fromhex(node),
                owed.results,
                owed.rows,
                owed.row_bytes,
                unix_s,
            )
            entry = LogEntry.signed(statement, self._identity)
            self._crediting.append((node, owed, self._entry_log.append(entry)))
        self._uncredited.clear()

    def _unlogged(self, what: str, error: BaseException) -> None:
        self._counters.unlogged += 1
        log.error("%s not in the public log: %s", what, error)
