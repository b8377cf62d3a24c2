"""The executor: one thread that computes frames, one after another, and signs what it answers.

Guarantees: at most `max_rows_in_flight` rows wait or are computed at any time, more are refused; frames are answered in the
order of their sequence numbers, each at most once, and one whose deadline has passed not at all; what is wrong with a
frame, or goes wrong with its computation, becomes a refusal, and the thread goes on. `Executor.answer` is the only place
where results are made.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

import asyncio
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
from ..protos.limits import MAX_REASON
from ..trust.statements import ResultStatement, TaskStatement, tensor_digest
from .frames import FrameReader, FrameRefused, Reason, Work, malformed
from .session import Session
from .shelf import Shelf

log = logging.getLogger(__name__)

MAX_FAULTS_LOGGED = 32
"""Different faults of computation that one session logs with their traceback."""

Send = Callable[[link_pb2.NodeMessage, Callable[[], None]], None]
"""Takes a message for the coordinator and what to call when it leaves; called on the event loop."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    frame: link_pb2.Frame
    rows: int
    drop_at: float


class Executor:
    """The compute thread of one session. All methods but `answer`, and what it calls, belong to the event loop."""

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
        self._send = send
        self._threads = threads
        self._backend = backend or Processor()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Arrival | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="folkmoot-executor", daemon=True)
        self._rows_in_flight = 0
        self._last_sequence = 0
        self._faults_logged: set[str] = set()
        self._stopping = False

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread after the frame that it is computing; waiting frames are not answered."""
        self._stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, frame: link_pb2.Frame) -> None:
        """Takes a frame to compute, or refuses it at once when it is out of order or too much."""
        if frame.sequence <= self._last_sequence:
            self._refuse(frame.sequence, malformed(f"sequence {frame.sequence} after {self._last_sequence}"))
            return
        self._last_sequence = frame.sequence
        # What the frame states of its rows is not checked yet; what cannot be true counts as the nearest that can.
        stated = frame.hidden.shape[0] if frame.hidden.shape else 1
        rows = min(max(stated, 1), self.session.max_rows_per_frame)
        if self._rows_in_flight + rows > self.session.max_rows_in_flight:
            self._refuse(
                frame.sequence,
                FrameRefused(
                    Reason.REASON_OVERLOADED,
                    f"{self._rows_in_flight} of {self.session.max_rows_in_flight} rows are in flight",
                ),
            )
            return
        self._rows_in_flight += rows
        allowed_s = frame.deadline_ms / 1000 if frame.deadline_ms else math.inf
        self._queue.put(_Arrival(frame, rows, time.monotonic() + allowed_s))

    async def drop(self, keys: frozenset[ExpertKey]) -> None:
        """Drops experts from memory once all frames that arrived before have been computed."""
        dropped = asyncio.Event()

        def drop() -> None:
            self.shelf.drop(keys)
            self._loop.call_soon_threadsafe(dropped.set)

        self._queue.put(drop)
        await dropped.wait()

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """Computes and signs a frame; None would leave it unanswered.

        Raises:
            FrameRefused: when the frame is malformed, or names an expert that is not held.
        """
        work = self.read(frame)
        return self.sign(frame, self.task(frame, work), self.compute(work))

    def read(self, frame: link_pb2.Frame) -> Work:
        """Checks a frame. Raises FrameRefused."""
        return self._reader.read(frame)

    def compute(self, work: Work) -> torch.Tensor:
        """[R, H] float32: per row, the gated sum over the work's experts."""
        return self._backend.feed_forward(work.groups, work.hidden)

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
            routing=work.routing,
            input=work.input,
            deadline_ms=frame.deadline_ms,
        )

    def sign(self, frame: link_pb2.Frame, task: TaskStatement, output: torch.Tensor) -> link_pb2.Result:
        """The signed result: [R, H] float32 in answer to the task."""
        digest = tensor_digest(tensor_pb2.DTYPE_FLOAT32, output.shape, raw_bytes(output))
        statement = ResultStatement(task=task.digest(), output=digest, status=0)
        return link_pb2.Result(
            sequence=frame.sequence,
            output=encode_tensor(output),
            signature=self.session.identity.sign(statement.encode()),
        )

    def _run(self) -> None:
        # The number of threads that OpenMP takes is the setting of the thread that asks for them.
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while (item := self._queue.get()) is not None:
                if not isinstance(item, _Arrival):
                    item()
                elif not self._stopping:
                    self._respond(item)

    def _respond(self, arrival: _Arrival) -> None:
        frame = arrival.frame
        message: link_pb2.NodeMessage | None = None
        if time.monotonic() < arrival.drop_at:
            try:
                result = self.answer(frame)
                if result is not None:
                    message = link_pb2.NodeMessage(result=result)
            except FrameRefused as refused:
                message = _refusal(frame.sequence, refused)
            except Exception as error:  # noqa: BLE001 - whatever it is, one frame must not end the node
                message = _refusal(frame.sequence, self._fault(frame, error))
        self._loop.call_soon_threadsafe(self._done, arrival.rows, message)

    def _fault(self, frame: link_pb2.Frame, error: Exception) -> FrameRefused:
        kind = f"{type(error).__name__}: {error}"
        if kind not in self._faults_logged and len(self._faults_logged) < MAX_FAULTS_LOGGED:
            self._faults_logged.add(kind)
            log.exception("a frame of layer %d cannot be computed (said once)", frame.layer)
        return FrameRefused(Reason.REASON_INTERNAL, kind)

    def _done(self, rows: int, message: link_pb2.NodeMessage | None) -> None:
        if message is None:
            self._release(rows)
        else:
            self.frames_answered += 1
            self._send(message, lambda: self._release(rows))

    def _release(self, rows: int) -> None:
        self._rows_in_flight -= rows

    def _refuse(self, sequence: int, refused: FrameRefused) -> None:
        self._send(_refusal(sequence, refused), _nothing)


def _refusal(sequence: int, refused: FrameRefused) -> link_pb2.NodeMessage:
    detail = refused.message[:MAX_REASON]
    return link_pb2.NodeMessage(
        refusal=link_pb2.Refusal(sequence=sequence, reason=refused.reason, detail=detail)
    )


def _nothing() -> None:
    return None
