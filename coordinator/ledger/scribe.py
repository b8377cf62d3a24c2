"""The scribe: keeps every session's books, gives nodes their receipts, and tells the public log.

Guarantees: whoever hands it a result never waits, never wakes a thread and never sees an error; a receipt goes out only after
what it credits is in the credit book, and on the disk if the disk takes it; the public log is told of all sessions by one
entry at a time, however much was answered. What stalls, a disk, a node or the log, holds up receipts alone. Memory is bounded;
what does not fit is counted.

Results wait in a queue that is emptied at each tick of the event loop by the scribe's own thread, where all else happens.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import FolkmootError
from ...ids import NodeId, SessionId, short
from ...models.manifest import Manifest
from ...models.work_meter import WorkMeter
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import Identity, VerifyingKey
from ...trust.receipts import CreditedResult, ReceiptChain, result_leaf
from ...trust.statements import ResultStatement
from ..dispatch.verified_result import VerifiedResult
from .credit_book import CreditBook
from .public_log import EntryLog
from .receipt_batches import ReceiptBatches
from .receipt_counters import ReceiptCounters
from .session_book import Issued, SessionBook
from .settings import ReceiptSettings

log = logging.getLogger(__name__)

MOST_WAITING: Final = 1 << 17
"""Results that wait for a tick."""


class ReceiptedLink(Protocol):
    """A link as the scribe sees it; attributes may be read from any thread, methods belong to the event loop."""

    @property
    def node(self) -> NodeId:
        """Whose it is."""
        ...

    @property
    def key(self) -> VerifyingKey:
        """The node's."""
        ...

    @property
    def session(self) -> SessionId:
        """This life of the link."""
        ...

    def ended_through(self) -> int:
        """The last frame up to which all have ended."""
        ...

    def post(self, message: link_pb2.CoordinatorMessage) -> None:
        """Queues a message; one that cannot be sent any more is forgotten."""
        ...

    def cut(self, reason: str, *, retry: bool) -> None:
        """Ends the link on purpose."""
        ...


@dataclass(frozen=True, slots=True)
class _Accepted:
    session: SessionId
    sequence: int
    statement: ResultStatement
    layer: int
    experts: npt.NDArray[np.int32]


@dataclass(slots=True, eq=False)
class _Open:
    """A session whose books are open; `left_s` is when its link ended, `last` its last frame then."""

    link: ReceiptedLink
    book: SessionBook
    left_s: float | None = None
    last: int = 0


class Scribe:
    """The receipts of one coordinator. `watch` is for any thread; all other public methods belong to the event loop."""

    def __init__(
        self,
        state: Path,
        manifest: Manifest,
        identity: Identity,
        entry_log: EntryLog,
        settings: ReceiptSettings,
    ) -> None:
        """Reads the credit book; starts nothing. Raises CreditFileError when it cannot be read."""
        self.counters = ReceiptCounters()
        self._identity = identity
        self._manifest = manifest
        self._settings = settings
        self._meter = WorkMeter(manifest)
        self._credits = CreditBook(state)
        self._batches = ReceiptBatches(identity, entry_log, self._credits, settings, self.counters)
        self._accepted: deque[_Accepted] = deque()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: dict[SessionId, _Open] = {}
        self._newest: dict[NodeId, ReceiptedLink] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._ticked = threading.Event()
        self._ticked.set()
        self._late_told = False
        self._dropping = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="folkmoot-scribe", daemon=True)

    def start(self) -> None:
        """Starts the thread, and a task on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._ticking = asyncio.create_task(self._tick_on())

    async def close(self) -> None:
        """Gives the last receipts, hands the last entries to the log, and ends the thread. Twice is harmless."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        self._ticking = None
        self._events.put(None)
        await asyncio.to_thread(self._thread.join)

    def watch(self, verified: VerifiedResult) -> None:
        """Takes an accepted result: a `Watcher`. Any thread."""
        if len(self._accepted) >= MOST_WAITING:
            with self._dropping:
                self.counters.dropped += 1
            return
        task = verified.task
        self._accepted.append(
            _Accepted(
                verified.host.session, task.sequence, verified.statement, task.layer, verified.pairs.experts
            )
        )

    def attached(self, link: ReceiptedLink) -> None:
        """A session begins."""
        chain = ReceiptChain(self._identity.public, link.key.raw, link.session, self._manifest.digest)
        book = SessionBook(chain, self._identity, self._settings, time.monotonic())
        with self._lock:
            self._open[link.session] = _Open(link, book)
            self._newest[link.node] = link
        self._events.put(partial(self._attached, link))

    def left(self, link: ReceiptedLink) -> None:
        """A session has ended; one that never began is none."""
        with self._lock:
            opened = self._open.get(link.session)
            if opened is not None and opened.left_s is None:
                opened.last, opened.left_s = link.ended_through(), time.monotonic()
            if self._newest.get(link.node) is link:
                del self._newest[link.node]

    def acknowledged(self, link: ReceiptedLink, message: link_pb2.Acknowledgement) -> None:
        """A node agrees with a receipt; nothing about it is believed yet."""
        self._events.put(partial(self._acknowledged, link, message))

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            if self._ticked.is_set():
                self._ticked.clear()
                ended = [
                    (one.book, one.link.ended_through()) for one in self._sessions() if one.left_s is None
                ]
                self._events.put(partial(self._tick, ended, time.monotonic()))

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            self._guarded(event)
        self._guarded(self._finish)

    def _guarded(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:
            log.exception("a fault kept receipts back")

    def _sessions(self) -> list[_Open]:
        with self._lock:
            return list(self._open.values())

    def _attached(self, link: ReceiptedLink) -> None:
        for message in self._batches.attached(link.node):
            self._post(link, message)

    def _acknowledged(self, link: ReceiptedLink, message: link_pb2.Acknowledgement) -> None:
        opened = self._open.get(link.session)
        if opened is None:
            return
        try:
            opened.book.acknowledge(message.receipt, message.signature, link.key)
        except FolkmootError as error:
            self.counters.refused += 1
            log.warning("node %s acknowledges what it should not: %s", short(link.node), error)
            self._on_loop(partial(link.cut, f"broke the wire contract: {error}", retry=True))
        else:
            self.counters.acknowledged += 1

    def _tick(self, ended: list[tuple[SessionBook, int]], now_s: float) -> None:
        self._ticked.set()
        self._take_accepted()
        for book, through in ended:
            book.ended(through, now_s)
        unix_s = int(time.time())
        issued: list[tuple[_Open, Issued]] = []
        for opened in self._sessions():
            if opened.left_s is None:
                receipt = opened.book.issue(now_s, unix_s)
            elif now_s - opened.left_s >= self._settings.settle_s:
                receipt = opened.book.close(opened.last, now_s, unix_s)
                with self._lock:
                    del self._open[opened.link.session]
            else:
                continue
            if receipt is not None:
                issued.append((opened, receipt))
        self._give(issued)
        self._batches.tick(now_s, unix_s, self._deliver)

    def _finish(self) -> None:
        self._take_accepted()
        now_s, unix_s = time.monotonic(), int(time.time())
        closed = [
            (opened, opened.book.close(max(opened.last, opened.book.newest), now_s, unix_s))
            for opened in self._sessions()
        ]
        self._give([(opened, receipt) for opened, receipt in closed if receipt is not None])
        self._open.clear()
        self._batches.finish(unix_s)

    def _take_accepted(self) -> None:
        for _ in range(len(self._accepted)):
            accepted = self._accepted.popleft()
            result = CreditedResult(
                accepted.sequence,
                result_leaf(accepted.statement),
                len(accepted.experts),
                self._meter.row_bytes(accepted.layer, accepted.experts),
            )
            opened = self._open.get(accepted.session)
            if opened is None or not opened.book.accept(result):
                self.counters.late += 1
                if not self._late_told:
                    self._late_told = True
                    log.warning(
                        "an accepted result came too late for its receipt (said once; the metric counts)"
                    )

    def _give(self, issued: list[tuple[_Open, Issued]]) -> None:
        """Credits receipts, and only then sends them."""
        for opened, receipt in issued:
            counted = receipt.signed.receipt.count
            self._credits.add(opened.link.node, counted, receipt.rows, receipt.row_bytes)
            self._batches.issued(opened.link.node, receipt.signed)
            self.counters.issued += 1
            self.counters.results += counted
            self.counters.omitted += len(receipt.omitted)
        try:
            self._credits.save()
        except OSError as error:
            log.error("credits cannot be written (%s): they are kept in memory, and tried again", error)
        for opened, receipt in issued:
            message = link_pb2.Receipt(
                statement=receipt.signed.receipt.encode(),
                signature=receipt.signed.signature,
                omitted=receipt.omitted,
            )
            self._post(opened.link, link_pb2.CoordinatorMessage(receipt=message))

    def _deliver(self, node: NodeId, message: link_pb2.CoordinatorMessage) -> bool:
        """Sends a message to a node on whatever link it has now; whether it has one."""
        with self._lock:
            link = self._newest.get(node)
        if link is not None:
            self._post(link, message)
        return link is not None

    def _post(self, link: ReceiptedLink, message: link_pb2.CoordinatorMessage) -> None:
        self._on_loop(partial(link.post, message))

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the event loop has ended, and every link with it
            log.debug("a message to a node came too late")
