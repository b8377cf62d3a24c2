"""The executor: one thread that computes frames, one after another, opens what is asked about, and signs what it answers.

Guarantees: at most `max_rows_in_flight` rows of frames and `MAX_CHALLENGED_ROWS_IN_FLIGHT` of challenges wait or are computed at
any time, more are refused, and neither crowds out the other; frames are answered in the order in which they came, and challenges too,
each at most once, and one whose deadline has passed not at all; a challenge lets frames go first, also those that come while it is
opened, until half of its time is over; what is wrong with one, or goes wrong with its
computation, becomes a refusal, and the thread goes on. `Executor.answer` is the only place where results are made, and
`Executor.answer_challenge` that of openings.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..ids import ExpertKey
from ..kernels.backend import Backend, Processor
from ..models.manifest import Manifest
from ..protos.codec import encode_tensor, raw_bytes
from ..protos.folkmoot.v1 import link_pb2, tensor_pb2
from ..protos.limits import MAX_CHALLENGED_ROWS_IN_FLIGHT, MAX_OPENED_ROWS
from ..trust.statements import ResultStatement, TaskStatement, tensor_digest
from .challenges import Activations, ChallengeReader, Question, open_parts
from .frames import FrameReader, Work
from .kept_activations import KeptActivations
from .receipts import ReceiptWindow
from .replies import refused_challenge, refused_frame, signed_opening
from .rows import Reason, Refused, malformed, within_reason
from .session import Session
from .shelf import Shelf
from .work_queue import WorkQueue

log = logging.getLogger(__name__)

MAX_FAULTS_LOGGED = 32
"""Different faults of computation that one session logs with their traceback."""

PATIENCE = 0.5
"""The share of its time that a challenge lets frames go first."""
MOST_ALLOWED_S = 60.0
"""The time that counts for this of a challenge that has more, or no deadline."""
DROP_PATIENCE_S = 1.0
"""How long what is to be dropped lets frames go first: challenges before it do."""

Send = Callable[[link_pb2.NodeMessage, Callable[[], None]], None]
"""Takes a message for the coordinator and what to call when it leaves; called on the event loop."""


Request = link_pb2.Frame | link_pb2.Challenge


@dataclass
class _Window:
    """How many rows of one kind of request may be in flight, and how many are."""

    limit: int
    rows: int = 0

    def enter(self, rows: int) -> None:
        """Raises Refused when there is no room."""
        if self.rows + rows > self.limit:
            raise Refused(Reason.REASON_OVERLOADED, f"{self.rows} of {self.limit} rows are in flight")
        self.rows += rows

    def leave(self, rows: int) -> None:
        self.rows -= rows


@dataclass(frozen=True, slots=True)
class _Arrival:
    request: Request
    leave: Callable[[], None]
    drop_at: float
    patient_until: float


class Executor:
    """The compute thread of one session. All methods but `answer` and `answer_challenge`, and what they call, belong to the event
    loop."""

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        shelf: Shelf,
        send: Send,
        *,
        threads: int,
        backend: Backend | None = None,
    ) -> None:
        self.session = session
        self.manifest = manifest
        self.shelf = shelf
        self.frames_answered = 0
        self._reader = FrameReader(manifest, shelf, session.max_rows_per_frame)
        self._challenges = ChallengeReader(session, manifest, shelf)
        self.receipts = ReceiptWindow(session, manifest)
        self._activations = KeptActivations()
        self._send = send
        self._threads = threads
        self._backend = backend or Processor()
        self._loop = asyncio.get_running_loop()
        self._queue: WorkQueue[_Arrival | Callable[[], None] | None] = WorkQueue()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="folkmoot-executor", daemon=True
        )
        self._frame_rows = _Window(session.max_rows_in_flight)
        self._challenged_rows = _Window(MAX_CHALLENGED_ROWS_IN_FLIGHT)
        self._last_sequence = 0
        self._patient_until = -math.inf
        self._faults_logged: set[str] = set()
        self._stopping = False

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the frame that it is computing, or the result that it is opening; waiting frames are not answered."""
        self._stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, frame: link_pb2.Frame) -> None:
        """Takes a frame to compute, or refuses it at once when it is out of order or too much."""
        try:
            if frame.sequence <= self._last_sequence:
                raise malformed(f"sequence {frame.sequence} after {self._last_sequence}")
            self._last_sequence = frame.sequence
            self._take(frame, self._frame_rows, self.session.max_rows_per_frame)
        except Refused as refused:
            self._send(refused_frame(frame, refused), _nothing)

    def challenge(self, challenge: link_pb2.Challenge) -> None:
        """Takes a challenge to answer, or refuses it at once when it is about no frame that came, or too much."""
        try:
            if not 0 < challenge.sequence <= self._last_sequence:
                raise malformed(f"no frame {challenge.sequence} came")
            self._take(challenge, self._challenged_rows, MAX_OPENED_ROWS)
        except Refused as refused:
            self._send(refused_challenge(challenge, refused), _nothing)

    def _take(self, request: Request, window: _Window, max_rows: int) -> None:
        # What a request states of its rows is not checked yet; what cannot be true counts as the nearest that can.
        stated = request.hidden.shape[0] if request.hidden.shape else 1
        rows = min(max(stated, 1), max_rows)
        window.enter(rows)
        allowed_s = request.deadline_ms / 1000 if request.deadline_ms else math.inf
        now_s = time.monotonic()
        patient_until = now_s + min(allowed_s, MOST_ALLOWED_S) * PATIENCE
        arrival = _Arrival(request, lambda: window.leave(rows), now_s + allowed_s, patient_until)
        if isinstance(request, link_pb2.Challenge):
            self._queue.put_patient(arrival, patient_until)
        else:
            self._queue.put(arrival)

    async def drop(self, keys: frozenset[ExpertKey]) -> None:
        """Drops experts from memory once all frames and challenges that arrived before have been computed."""
        dropped = asyncio.Event()

        def drop() -> None:
            self.shelf.drop(keys)
            self._loop.call_soon_threadsafe(dropped.set)

        self._queue.put_patient(drop, time.monotonic() + DROP_PATIENCE_S)
        await dropped.wait()

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """Computes and signs a frame; None would leave it unanswered.

        Raises:
            Refused: when the frame is malformed, or names an expert that is not held.
        """
        work = self.read(frame)
        return self.sign(frame, self.task(frame, work), self.compute(work))

    def read(self, frame: link_pb2.Frame) -> Work:
        """Checks a frame. Raises Refused."""
        return self._reader.read(frame)

    def compute(self, work: Work) -> torch.Tensor:
        """[R, H] float32: per row, the gated sum over the work's experts.

        Raises:
            Refused: when that is not finite, or larger than any model's activations: it would be signed for good, and used by nobody.
        """
        room = self._activations.room(work)
        output = self._backend.feed_forward(work.groups, work.hidden, room)
        if room is not None:
            self._activations.keep(work, room)
        if not within_reason(output):
            raise malformed(
                "these rows and gates lead to numbers that are not finite, or larger than any model's"
            )
        return output

    def task(self, frame: link_pb2.Frame, work: Work) -> TaskStatement:
        """What an answer to the frame is bound to."""
        session = self.session
        rows, hidden = work.hidden.shape
        return TaskStatement(
            coordinator=session.coordinator_key,
            node=session.identity.public,
            session=session.session,
            sequence=frame.sequence,
            manifest=session.manifest_digest,
            profile=self.manifest.profile,
            layer=frame.layer,
            rows=rows,
            hidden=hidden,
            routing=work.routing.digest,
            input=work.input,
            deadline_ms=frame.deadline_ms,
        )

    def sign(self, frame: link_pb2.Frame, task: TaskStatement, output: torch.Tensor) -> link_pb2.Result:
        """The signed result: [R, H] float32 in answer to the task."""
        data = raw_bytes(output)
        digest = tensor_digest(tensor_pb2.DTYPE_FLOAT32, output.shape, data)
        statement = ResultStatement(task=task.digest(), output=digest, status=0)
        self.receipts.answered(frame, statement)
        return link_pb2.Result(
            sequence=frame.sequence,
            output=encode_tensor(output, data),
            signature=self.session.identity.sign(statement.encode()),
        )

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """Opens and signs what a challenge asks for; None would leave it unanswered.

        Raises:
            Refused: when the challenge is malformed, or names an expert that is not held.
        """
        question = self.read_challenge(challenge)
        return self.sign_opening(challenge, question, self.open(question))

    def read_challenge(self, challenge: link_pb2.Challenge) -> Question:
        """Checks a challenge. Raises Refused."""
        return self._challenges.read(challenge)

    def open(self, question: Question) -> Activations:
        """The activations asked for, in float32, as they were kept or computed again: a raw opening is these rounded once, as results
        are computed from them. Frames that come while they are computed are answered first, while the challenge is patient."""
        kept = self._activations.find(question)
        return kept or open_parts(question.parts, question.hidden, self._answer_frames)

    def sign_opening(
        self, challenge: link_pb2.Challenge, question: Question, opened: Activations
    ) -> link_pb2.Opening:
        """The signed opening, in the type that the question asks for."""
        return signed_opening(self.session.identity, challenge, question, opened)

    def _run(self) -> None:
        # The number of threads that OpenMP takes is the setting of the thread that asks for them.
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while (item := self._queue.get()) is not None:
                if not isinstance(item, _Arrival):
                    item()
                else:
                    self._patient_until = item.patient_until
                    self._serve(item)

    def _serve(self, arrival: _Arrival) -> None:
        if not self._stopping:
            message = self._respond(arrival.request) if time.monotonic() < arrival.drop_at else None
            self._loop.call_soon_threadsafe(self._done, arrival.leave, message)

    def _answer_frames(self) -> None:
        """Answers frames that wait while a challenge is opened, until its patience is over."""
        while time.monotonic() < self._patient_until:
            try:
                item = self._queue.get_waiting()
            except queue.Empty:
                return
            if not isinstance(item, _Arrival):
                self._queue.put(item)
                return
            self._serve(item)

    def _respond(self, request: Request) -> link_pb2.NodeMessage | None:
        try:
            if isinstance(request, link_pb2.Challenge):
                opening = self.answer_challenge(request)
                return None if opening is None else link_pb2.NodeMessage(opening=opening)
            result = self.answer(request)
            return None if result is None else link_pb2.NodeMessage(result=result)
        except Refused as refused:
            return _refusal(request, refused)
        except Exception as error:  # noqa: BLE001 - whatever it is, one request must not end the node
            return _refusal(request, self._fault(request, error))

    def _fault(self, request: Request, error: Exception) -> Refused:
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._faults_logged and len(self._faults_logged) < MAX_FAULTS_LOGGED:
            self._faults_logged.add(kind)
            what = "a frame" if isinstance(request, link_pb2.Frame) else "an opening"
            log.exception("%s of layer %d cannot be computed (said once)", what, request.layer)
        return Refused(Reason.REASON_INTERNAL, kind)

    def _done(self, leave: Callable[[], None], message: link_pb2.NodeMessage | None) -> None:
        if message is None:
            leave()
            return
        self.frames_answered += message.WhichOneof("body") != "opening"
        self._send(message, leave)


def _refusal(request: Request, refused: Refused) -> link_pb2.NodeMessage:
    if isinstance(request, link_pb2.Challenge):
        return refused_challenge(request, refused)
    return refused_frame(request, refused)


def _nothing() -> None:
    return None
