"""The scribe: keeps every session's books, gives nodes their receipts, and tells the public log.

Guarantees: whoever hands it a result never waits, never wakes a thread and never sees an error; a receipt goes out, and into the
public log, only after it and what it credits are durable in the books: while these cannot be written, no more receipts are made.
The log is told of all sessions by one entry at a time, however much was answered. What stalls, a database, a disk, a node or the
log, holds up receipts alone. Memory is bounded; what does not fit is counted.

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
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from functools import partial
from typing import Final

from ...errors import CapacityError, FolkmootError, UnavailableError
from ...ids import NodeId, SessionId, short
from ...models.manifest import Manifest
from ...models.work_meter import WorkMeter
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import Identity
from ...trust.receipts import CreditedResult, ReceiptChain, result_leaf
from ..books.credit import Credit
from ..books.receipt_book import ReceiptBook
from ..dispatch.verified_result import VerifiedResult
from .accepted import Accepted
from .public_log import EntryLog
from .receipt_batches import ReceiptBatches
from .receipt_counters import ReceiptCounters
from .receipted_link import ReceiptedLink
from .session_book import Issued, SessionBook
from .settings import ReceiptSettings

log = logging.getLogger(__name__)

MOST_WAITING: Final = 1 << 17
"""Results that wait for a tick."""
MOST_HELD: Final = 1 << 19
"""Results of sessions that have ended, while the books cannot be written."""
FINISH_WITHIN_S: Final = 5.0
"""How long the books may take at the end."""
CLOSE_WITHIN_S: Final = 3 * FINISH_WITHIN_S
"""How long all that may take; a database that does not answer is not waited for beyond it."""


@dataclass(slots=True, eq=False)
class _Open:
    """A session whose books are open; `left_s` is when its link ended, `last` its last frame then."""

    link: ReceiptedLink
    book: SessionBook
    left_s: float | None = None
    last: int = 0


@dataclass(frozen=True, slots=True)
class _Given:
    """A receipt that goes out when it is in the books, and what its node is owed with it."""

    link: ReceiptedLink
    receipt: Issued
    owed: Credit


class Scribe:
    """The receipts of one coordinator. `watch` is for any thread; all other public methods belong to the event loop."""

    def __init__(
        self,
        book: ReceiptBook,
        manifest: Manifest,
        identity: Identity,
        entry_log: EntryLog,
        settings: ReceiptSettings,
    ) -> None:
        """Reads which receipts the log has not; starts nothing. Raises a FolkmootError when the books cannot be read."""
        self.counters = ReceiptCounters()
        self._identity = identity
        self._manifest = manifest
        self._settings = settings
        self._meter = WorkMeter(manifest)
        self._book = book
        self._batches = ReceiptBatches(identity, entry_log, book, settings, self.counters)
        self._batches.begin()
        self._writing: tuple[list[_Given], Future[None]] | None = None
        self._returned: dict[NodeId, ReceiptedLink] = {}
        self._catching_up = False
        self._accepted: deque[Accepted] = deque()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: dict[SessionId, _Open] = {}
        self._newest: dict[NodeId, ReceiptedLink] = {}
        book.is_open = lambda session: SessionId(session) in self._open
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
        """Gives the last receipts, hands the last entries to the log, and ends the thread; waits for a bounded time. Twice is harmless."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        self._ticking = None
        self._events.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_WITHIN_S)
        if self._thread.is_alive():  # a daemon: it keeps no process from ending
            log.error("the scribe still waits for the books, and is left behind")

    def watch(self, verified: VerifiedResult) -> None:
        """Takes an accepted result: a `Watcher`. Any thread."""
        if len(self._accepted) >= MOST_WAITING:
            with self._dropping:
                self.counters.dropped += 1
            return
        task = verified.task
        self._accepted.append(
            Accepted(
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
        self._returned[link.node] = link
        self._look_after_returned()

    def _look_after_returned(self) -> None:
        """Nodes are back: what they should have, and may not have, is sent once the books are up to date."""
        if self._returned and not self._catching_up:
            self._catching_up = True
            returned, self._returned = self._returned, {}
            self._book.flush().add_done_callback(
                lambda done: self._events.put(partial(self._catch_up, returned, done))
            )

    def _catch_up(self, returned: dict[NodeId, ReceiptedLink], flushed: Future[None]) -> None:
        self._catching_up = False
        if flushed.exception() is not None:  # the books are closed
            return
        for node, link in returned.items():
            if self._newest.get(node) is not link:
                continue
            try:
                proofs = self._book.proofs_for(node)
            except (UnavailableError, CapacityError) as error:
                log.warning("what node %s is to be sent cannot be read yet: %s", short(node), error)
                # The others would not fare better; those that came meanwhile are the newer links.
                self._returned = returned | self._returned
                return
            for proof in proofs:
                message = link_pb2.LoggedReceipt(logged=proof.encode())
                shown = partial(self._book.shown, proof)
                self._post(link, link_pb2.CoordinatorMessage(logged_receipt=message), shown)
        # Those that came meanwhile wait no longer than for this.
        self._look_after_returned()

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
            self._book.agreed(link.session, opened.book.acknowledged)

    def _tick(self, ended: list[tuple[SessionBook, int]], now_s: float) -> None:
        self._ticked.set()
        self._take_accepted()
        for book, through in ended:
            book.ended(through, now_s)
        unix_s = int(time.time())
        if self._writing is None:
            self._give(self._due(now_s, unix_s))
        else:
            self._make_room(now_s)
        self._look_after_returned()
        self._batches.tick(now_s, unix_s, self._deliver)

    def _due(self, now_s: float, unix_s: int) -> list[tuple[_Open, Issued]]:
        """Receipts that are due; closes the books of sessions that have ended."""
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
        return issued

    def _make_room(self, now_s: float) -> None:
        """Closes sessions that have ended and hold nothing, and gives up others, oldest first, when they hold too much."""
        left: list[_Open] = []
        for opened in self._sessions():
            if opened.left_s is None:
                continue
            if opened.book.waiting or now_s - opened.left_s < self._settings.settle_s:
                left.append(opened)
            else:
                with self._lock:
                    del self._open[opened.link.session]
        held = sum(opened.book.waiting for opened in left)
        for opened in left:
            if held <= MOST_HELD:
                return
            held -= opened.book.waiting
            self.counters.dropped += opened.book.waiting
            log.error(
                "%d results of node %s will never be receipted: the books cannot be written for too long",
                opened.book.waiting,
                short(opened.link.node),
            )
            with self._lock:
                del self._open[opened.link.session]

    def _finish(self) -> None:
        self._take_accepted()
        self._await_books()
        now_s, unix_s = time.monotonic(), int(time.time())
        if self._writing is None:
            closed = [
                (opened, opened.book.close(max(opened.last, opened.book.newest), now_s, unix_s))
                for opened in self._sessions()
            ]
            self._give([(opened, receipt) for opened, receipt in closed if receipt is not None])
            self._await_books()
        self._open.clear()
        self._batches.finish(unix_s)

    def _await_books(self) -> None:
        """Waits for what is being written, for a moment; what takes longer was promised to nobody."""
        if self._writing is None:
            return
        given, future = self._writing
        try:
            future.exception(FINISH_WITHIN_S)
        except NotYetError:
            results = sum(one.receipt.signed.receipt.count for one in given)
            log.error("receipts for %d results were not given: the books could not be written", results)
        else:
            self._written(given, future)

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
        """Puts receipts into the books; they are sent when they are there to stay."""
        if not issued:
            return
        given = []
        for opened, receipt in issued:
            signed = receipt.signed
            owed = self._book.receipted(signed, signed.receipt.count, receipt.rows, receipt.row_bytes)
            given.append(_Given(opened.link, receipt, owed))
        future = self._book.flush()
        self._writing = (given, future)
        future.add_done_callback(lambda done: self._events.put(partial(self._written, given, done)))

    def _written(self, given: list[_Given], done: Future[None]) -> None:
        """Receipts are in the books for good: from here on they may be known."""
        self._writing = None
        if (error := done.exception()) is not None:
            log.error("%d receipts are not given: %s", len(given), error)
            return
        for one in given:
            signed = one.receipt.signed
            self._batches.written(one.link.node, signed, one.owed)
            self.counters.issued += 1
            self.counters.results += signed.receipt.count
            self.counters.omitted += len(one.receipt.omitted)
            message = link_pb2.Receipt(
                statement=signed.receipt.encode(),
                signature=signed.signature,
                omitted=one.receipt.omitted,
            )
            self._post(one.link, link_pb2.CoordinatorMessage(receipt=message))

    def _deliver(
        self, node: NodeId, message: link_pb2.CoordinatorMessage, queued: Callable[[], None]
    ) -> None:
        """Sends a message to a node on whatever link it has now."""
        with self._lock:
            link = self._newest.get(node)
        if link is not None:
            self._post(link, message, queued)

    def _post(
        self,
        link: ReceiptedLink,
        message: link_pb2.CoordinatorMessage,
        queued: Callable[[], None] | None = None,
    ) -> None:
        """Sends a message; then, if the link took it, does what is to be done in this thread."""

        def post() -> None:
            if link.post(message) and queued is not None:
                self._events.put(queued)

        self._on_loop(post)

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the event loop has ended, and every link with it
            log.debug("a message to a node came too late")
