"""The arena's receipts: the coordinator's own scribe, books and public log, and what they should say of a node.

Guarantees: what a node should be owed is added up here from the results that were accepted, and from nothing that the books say.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from ...coordinator.books.books import Books
from ...coordinator.books.credit import Credit
from ...coordinator.books.settings import BooksSettings
from ...coordinator.dispatch.verified_result import VerifiedResult
from ...coordinator.ledger.public_log import PublicLog
from ...coordinator.ledger.scribe import Scribe
from ...coordinator.ledger.settings import ReceiptSettings
from ...ids import NodeId
from ...models.manifest import Manifest
from ...models.work_meter import WorkMeter
from ...trust.keys import Identity

SETTINGS: Final = ReceiptSettings(results=64, every_s=0.2, settle_s=0.1, tick_s=0.05)
"""Receipts come soon, so that nobody waits for them for long."""


class Ledger:
    """Of one arena."""

    def __init__(self, state: Path, manifest: Manifest, identity: Identity) -> None:
        """Opens books and log below the folder; blocks."""
        self._meter = WorkMeter(manifest)
        self._earned: dict[NodeId, Credit] = {}
        self._log = PublicLog(state, identity)
        self._books = Books(BooksSettings(), state, identity.public)
        self.scribe = Scribe(self._books.receipts, manifest, identity, self._log, SETTINGS)

    async def close(self) -> None:
        """Gives the last receipts, and closes all."""
        await self.scribe.close()
        await asyncio.to_thread(self._log.close)
        await asyncio.to_thread(self._books.close)

    def watch(self, verified: VerifiedResult) -> None:
        """Takes an accepted result: a `Watcher`."""
        node, experts = verified.host.node, verified.pairs.experts
        row_bytes = self._meter.row_bytes(verified.task.layer, experts)
        self._earned[node] = self._earned.get(node, Credit()).plus(1, len(experts), row_bytes)
        self.scribe.watch(verified)

    @property
    def refused(self) -> int:
        """Agreements that were refused."""
        return self.scribe.counters.refused

    def balanced(self, node: NodeId) -> bool:
        """Whether the books owe a node what it has earned."""
        return self._books.receipts.owed().get(node, Credit()) == self._earned.get(node, Credit())
