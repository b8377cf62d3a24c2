"""What of receipts and credits goes into the public log, and the proofs that nodes get back.

Guarantees: a batch has the newest receipt of every session that had one since the batch before, each session once; one that the
log did not take goes into the next. A node is sent the proof of its receipt when the entry is on the disk, or when it attaches
again; a bounded number waits for that. Credits are logged for each node whose credit has changed. For one thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from ...ids import NodeId
from ...protos.folkmoot.v1 import link_pb2
from ...trust import merkle
from ...trust.keys import Identity
from ...trust.log_entries import CreditEntry, LogEntry
from ...trust.logged_receipts import LoggedReceipt, batch_entry, batch_leaf, batch_of
from ...trust.receipts import SignedReceipt
from .credit_book import CreditBook
from .public_log import EntryLog
from .receipt_counters import ReceiptCounters
from .settings import ReceiptSettings

log = logging.getLogger(__name__)

MOST_KEPT_FOR_A_NODE: Final = 16
MOST_NODES_AWAY: Final = 4096

Deliver = Callable[[NodeId, link_pb2.CoordinatorMessage], bool]
"""Sends a node a message; whether it has a link."""


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
        credits: CreditBook,
        settings: ReceiptSettings,
        counters: ReceiptCounters,
    ) -> None:
        self._identity = identity
        self._entry_log = entry_log
        self._credits = credits
        self._settings = settings
        self._counters = counters
        self._changed: dict[bytes, SignedReceipt] = {}
        self._uncredited: set[NodeId] = set()
        self._crediting: list[tuple[NodeId, Future[int]]] = []
        self._appended: _Appended | None = None
        self._logged_s: float | None = None
        self._credited_s: float | None = None
        self._away: OrderedDict[NodeId, deque[link_pb2.CoordinatorMessage]] = OrderedDict()

    def issued(self, node: NodeId, signed: SignedReceipt) -> None:
        """A node was given a receipt, and credited with it."""
        self._changed[signed.receipt.session] = signed
        self._uncredited.add(node)

    def attached(self, node: NodeId) -> list[link_pb2.CoordinatorMessage]:
        """What has waited for a node to come back."""
        return list(self._away.pop(node, ()))

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
            if not deliver(node, message):
                self._keep(node, message)

    def _log_credits(self, unix_s: int) -> None:
        for node, future in self._crediting:
            if future.done() and (error := future.exception()) is not None:
                self._unlogged("a credit is", error)
                self._uncredited.add(node)
        self._crediting.clear()
        for node in sorted(self._uncredited):
            credit = self._credits.of(node)
            statement = CreditEntry(
                self._identity.public,
                bytes.fromhex(node),
                credit.results,
                credit.rows,
                credit.row_bytes,
                unix_s,
            )
            entry = LogEntry.signed(statement, self._identity)
            self._crediting.append((node, self._entry_log.append(entry)))
        self._uncredited.clear()

    def _keep(self, node: NodeId, message: link_pb2.CoordinatorMessage) -> None:
        self._away.setdefault(node, deque(maxlen=MOST_KEPT_FOR_A_NODE)).append(message)
        self._away.move_to_end(node)
        if len(self._away) > MOST_NODES_AWAY:
            self._away.popitem(last=False)

    def _unlogged(self, what: str, error: BaseException) -> None:
        self._counters.unlogged += 1
        log.error("%s not in the public log: %s", what, error)
