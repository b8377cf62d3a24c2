"""One attached session of one node: what is sent on it, what is out, and how it ends.

Guarantees: every frame that is given to `send` ends exactly once, on the event loop, whatever becomes of the node; messages
leave in the order in which they were posted, from one writer; nothing is queued without bound. A link that was cut says why
on its way out. Methods of `Host` say which thread they are for; all others belong to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import ceil
from typing import Any

from ...errors import FolkmootError
from ...ids import NodeId, SessionId, short
from ...protos.folkmoot.v1 import link_pb2
from ...protos.limits import MAX_REASON
from ...trust.keys import VerifyingKey
from ..dispatch.challenge import SentChallenge, Unopened
from ..dispatch.choice import HostEstimate
from ..dispatch.counters import DispatchCounters
from ..dispatch.host import Ending, Failure, SentFrame
from .allowance import Allowance
from .outstanding import Outstanding, UnaskedResultError, UnwantedResultError
from .pace import Pace
from .questions import Questions
from .roster import NodeRecord
from .settings import HubSettings

log = logging.getLogger(__name__)

ROOM_FOR_CONTROL = 256
"""Messages that are not frames and may wait for a slow reader."""

LONGEST_DEADLINE_S = 3600.0
FIRST_PING_PAUSE_S = 0.05

_REFUSALS = {
    link_pb2.Refusal.REASON_NOT_HELD: Failure.NOT_HELD,
    link_pb2.Refusal.REASON_OVERLOADED: Failure.OVERLOADED,
    link_pb2.Refusal.REASON_MALFORMED: Failure.MALFORMED,
}

OnFault = Callable[["Link", FolkmootError, str], None]


class Link:
    """A node, attached."""

    def __init__(
        self,
        key: VerifyingKey,
        session: SessionId,
        settings: HubSettings,
        counters: DispatchCounters,
        record: NodeRecord,
        on_fault: OnFault,
        software_version: str = "",
    ) -> None:
        """`on_fault` is told on the event loop of each result that the node is to blame for."""
        self.node: NodeId = key.node_id
        self.key = key
        self.session = session
        self.software_version = software_version
        self.pace = Pace()
        self.changes = Allowance(asyncio.get_running_loop().time())
        self.closed = asyncio.Event()
        self.why_closed = ""
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._counters = counters
        self._record = record
        self._on_fault = on_fault
        self._outstanding = Outstanding(settings.max_rows_in_flight)
        self._questions = Questions()
        self._outbox: asyncio.Queue[link_pb2.CoordinatorMessage | None] = asyncio.Queue(
            settings.max_rows_in_flight + ROOM_FOR_CONTROL
        )
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._last_answer_s = self._last_heard_s = self._loop.time()
        self._pings: dict[int, float] = {}
        self._last_ping = 0
        self._ping_timer: asyncio.Handle = self._loop.call_soon(self._ping)

    @property
    def rows_in_flight(self) -> int:
        """Rows of frames that are out."""
        return self._outstanding.rows

    def ended_through(self) -> int:
        """The last frame up to which all have ended."""
        return self._outstanding.ended_through

    def estimate(self) -> HostEstimate:
        """What is believed of the node right now; any thread."""
        return self.pace.estimate(self._loop.time())

    def deadline_s(self, rows: int) -> float:
        """How long a frame of so many rows may take; any thread."""
        settings = self._settings
        rows_s = settings.row_deadline_s * (rows + self._outstanding.rows_ahead)
        return min(settings.frame_deadline_s + rows_s, LONGEST_DEADLINE_S)

    def reserve(self, frame: SentFrame) -> None:
        """Counts a planned frame as work to come; any thread."""
        self.pace.reserve(frame)

    def verified(self, frame: SentFrame) -> None:
        """The frame's answer was found right; any thread."""
        self.pace.served(frame, self._loop.time())
        self._record.verified()

    def rejected(self, frame: SentFrame, error: FolkmootError, reason: str) -> None:
        """The frame's answer was thrown away; any thread."""
        self._record.rejected()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_fault, self, error, reason)

    def send(self, frame: SentFrame) -> None:
        """Sends a reserved frame, now or when there is room."""
        if self.closed.is_set():
            self._end(frame, Failure.LINK_LOST)
            return
        self._outstanding.offer(frame)
        self._fill()

    def ask(self, challenge: SentChallenge) -> None:
        """Sends a challenge, now or when there is room; any thread."""
        try:
            self._loop.call_soon_threadsafe(self._ask, challenge)
        except RuntimeError:  # the event loop has ended, and every link with it
            challenge.on_end(Unopened.LINK_LOST)

    def opened(self, opening: link_pb2.Opening) -> None:
        """An opening came; it is handed on unchecked."""
        challenge = self._questions.take(opening.nonce)
        if challenge is None:
            log.info("node %s opened what is not asked for any more", short(self.node))
            return
        # The node was at it until now: a frame that waited behind it was not slow.
        self._last_answer_s = self._loop.time()
        challenge.on_end(opening)
        self._fill_questions()

    def post(self, message: link_pb2.CoordinatorMessage) -> bool:
        """Queues a message; a node that reads so slowly that there is no room loses its link. Whether it was queued."""
        if self.closed.is_set():
            return False
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.close("reads too slowly")
            return False
        return True

    async def write(self, context: Any) -> None:
        """Writes what is posted, until the link is cut: the one writer."""
        while (message := await self._outbox.get()) is not None:
            await context.write(message)

    def heard(self) -> None:
        """The node said something."""
        self._last_heard_s = self._loop.time()

    def answered(self, result: link_pb2.Result) -> None:
        """A result came; it is handed on unchecked to whoever waits for it.

        One that was on its way when the link was cut is nobody's fault.
        """
        if self.closed.is_set():
            return
        now = self._loop.time()
        try:
            frame = self._outstanding.take(result.sequence)
        except UnwantedResultError as error:
            self._counters.rejected(error.reason, signed=bool(result.signature))
            self._record.rejected()
            log.warning("node %s: %s (%s)", short(self.node), error, error.reason)
            if isinstance(error, UnaskedResultError):
                self._on_fault(self, error, error.reason)
            return
        waited_alone = self._last_answer_s <= frame.sent_at_s
        began_s = frame.sent_at_s + self.pace.shortest_round_trip_s if waited_alone else self._last_answer_s
        frame.service_s = now - began_s
        self._last_answer_s = now
        self._end(frame, result)
        self._fill()

    def refused(self, refusal: link_pb2.Refusal) -> None:
        """The node will not compute a frame."""
        try:
            frame = self._outstanding.take(refusal.sequence)
        except UnwantedResultError as error:
            log.info("node %s refuses a frame that is not out: %s", short(self.node), error)
            return
        failure = _REFUSALS.get(refusal.reason, Failure.INTERNAL)
        detail = refusal.detail[:MAX_REASON]
        log.info("node %s refuses frame %d (%s): %r", short(self.node), frame.sequence, failure.value, detail)
        self._end(frame, failure)
        self._fill()

    def ponged(self, token: int) -> None:
        """A ping came back; one that was never sent says nothing."""
        sent_at_s = self._pings.pop(token, None)
        if sent_at_s is not None:
            self.pace.ponged(self._loop.time() - sent_at_s)

    def cut(self, reason: str, *, retry: bool) -> None:
        """Ends the link on purpose: what is queued still leaves, then the reason."""
        if self.closed.is_set():
            return
        closing = link_pb2.Closing(reason=reason[:MAX_REASON], retry=retry)
        message = link_pb2.CoordinatorMessage(closing=closing)
        if not self._outbox.full():
            self._outbox.put_nowait(message)
        self.close(reason)

    def close(self, reason: str) -> None:
        """The link carries nothing from now on; every frame that is out ends as lost. Closing twice is harmless."""
        if self.closed.is_set():
            return
        self.why_closed = reason
        self.closed.set()
        if not self._outbox.full():
            self._outbox.put_nowait(None)  # the writer ends once what was posted before has left
        self._ping_timer.cancel()
        for frame in self._outstanding.drain():
            self._end(frame, Failure.LINK_LOST)
        for challenge in self._questions.drain():
            challenge.on_end(Unopened.LINK_LOST)

    def _ask(self, challenge: SentChallenge) -> None:
        if self.closed.is_set():
            challenge.on_end(Unopened.LINK_LOST)
            return
        self._questions.offer(challenge)
        self._fill_questions()

    def _unopened(self, challenge: SentChallenge) -> None:
        if self._questions.take(challenge.message.nonce) is not None:
            log.warning("node %s did not open what it was asked to in time", short(self.node))
            challenge.on_end(Unopened.LATE)
            self._fill_questions()

    def _fill_questions(self) -> None:
        """Sends the challenges that have room."""
        for challenge in self._questions.admit():
            challenge.timer = self._loop.call_later(challenge.deadline_s, self._unopened, challenge)
            self.post(link_pb2.CoordinatorMessage(challenge=challenge.message))

    def _fill(self) -> None:
        """Sends the frames that have room."""
        now = self._loop.time()
        for frame in self._outstanding.admit():
            if self.closed.is_set():
                return
            frame.sent_at_s = now
            frame.message.frame.sequence = frame.sequence
            self._timers[frame.sequence] = self._loop.call_later(
                frame.deadline_s, self._expired, frame.sequence
            )
            self.post(frame.message)

    def _expired(self, sequence: int) -> None:
        frame = self._outstanding.expire(sequence)
        self.pace.missed(self._loop.time())
        log.warning(
            "node %s missed the deadline of frame %d (%.1f s)", short(self.node), sequence, frame.deadline_s
        )
        self._end(frame, Failure.TIMED_OUT)
        if self.pace.misses >= self._settings.misses_before_cut:
            self.cut(f"missed {self.pace.misses} deadlines in a row", retry=True)
        else:
            self._fill()

    def _end(self, frame: SentFrame, ending: Ending) -> None:
        timer = self._timers.pop(frame.sequence, None)
        if timer is not None:
            timer.cancel()
        self.pace.release(frame)
        frame.on_end(frame, ending)

    def _ping(self) -> None:
        now = self._loop.time()
        silent_s = now - self._last_heard_s
        if silent_s > self._settings.silence_s:
            self.close(f"said nothing for {ceil(silent_s)} s")
            return
        self._last_ping += 1
        self._pings = {self._last_ping: now, **dict(list(self._pings.items())[:7])}
        self.post(link_pb2.CoordinatorMessage(ping=link_pb2.Ping(token=self._last_ping)))
        # A node that has just come is measured more often, so that the first requests already find it measured.
        pause_s = min(self._settings.ping_interval_s, FIRST_PING_PAUSE_S * 2.0 ** min(self._last_ping, 16))
        self._ping_timer = self._loop.call_later(pause_s, self._ping)
