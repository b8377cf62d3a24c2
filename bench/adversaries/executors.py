"""Executors that cheat: each overrides the one step of the honest executor in which it does.

Guarantees: all that is not overridden is the real node's; what is random follows from a fixed seed. Opened is what was computed
with, unless the class says otherwise.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from ...kernels.expert import Expert
from ...models.manifest import Manifest
from ...node.challenges import Activations, Question
from ...node.executor import Executor, Send
from ...node.frames import Work
from ...node.kept_activations import KeptActivations
from ...node.replies import signed_opening
from ...node.session import Session
from ...node.shelf import Shelf
from ...protos.codec import raw_bytes
from ...protos.folkmoot.v1 import link_pb2, tensor_pb2
from ...trust.keys import Identity
from ...trust.statements import ResultStatement, TaskStatement, tensor_digest
from .cheap_weights import Cheapen, turned

LATE_BY_S = 0.05
SLOW_SHARE = 0.8
"""How much of its time a slow opening takes: what is left is for the way."""
FRAMES_UNWATCHED = 32
"""Frames without a challenge after which a wary cheat believes that nobody looks."""
FRAMES_REMEMBERED = 1 << 16


Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Seat:
    """What every executor of a link's life is made of."""

    session: Session
    manifest: Manifest
    shelf: Shelf
    send: Send
    threads: int
    life: int = 0
    """How many lives the link had before."""


class Cheat(Executor):
    """An executor in some node's seat."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat.session, seat.manifest, seat.shelf, seat.send, threads=seat.threads)


class CheapWeights(Cheat):
    """Computes with cheaper weights than the canonical ones.

    Args:
        cheapen: Makes them, once for each expert.
        opens_true: Whether openings are computed from the canonical weights all the same.
    """

    def __init__(self, seat: Seat, cheapen: Cheapen, *, opens_true: bool = False) -> None:
        super().__init__(seat)
        self._cheapen = cheapen
        self._opens_true = opens_true
        self._made: WeakKeyDictionary[Expert, Expert] = WeakKeyDictionary()
        # What it opens is not always what it has computed.
        self._activations = KeptActivations(most_bytes=0)

    def compute(self, work: Work) -> torch.Tensor:
        """[R, H] float32, of the cheap weights."""
        groups = [dataclasses.replace(group, expert=self.instead_of(group.expert)) for group in work.groups]
        return super().compute(dataclasses.replace(work, groups=groups))

    def open(self, question: Question) -> Activations:
        """What the weights that it pretends to give."""
        if self._opens_true:
            return super().open(question)
        parts = tuple((self.instead_of(expert), rows) for expert, rows in question.parts)
        return super().open(dataclasses.replace(question, parts=parts))

    def instead_of(self, expert: Expert) -> Expert:
        """What is computed instead of an expert."""
        made = self._made.get(expert)
        if made is None:
            made = self._made[expert] = self._cheapen(expert)
        return made


class WrongExpert(CheapWeights):
    """Computes the next expert that it holds of the layer; if it holds no other, one with the same weights turned about."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat, turned)

    def instead_of(self, expert: Expert) -> Expert:
        """Another one."""
        for layer in {key.layer for key in self.shelf.held}:
            held = self.shelf.layer(layer)
            numbers = sorted(held)
            for at, number in enumerate(numbers):
                if held.get(number) is expert and len(numbers) > 1:
                    return held[numbers[(at + 1) % len(numbers)]]
        return super().instead_of(expert)


class WhenUnwatched(CheapWeights):
    """Computes with cheap weights only while no challenge has come for a number of frames; opens what it used for each."""

    def __init__(self, seat: Seat, cheapen: Cheapen, frames: int = FRAMES_UNWATCHED) -> None:
        super().__init__(seat, cheapen)
        self._frames = frames
        self._unwatched = 0
        self._cheated: deque[int] = deque(maxlen=FRAMES_REMEMBERED)
        self._cheats = False

    @property
    def unseen(self) -> bool:
        """Whether its next answer will be a cheap one."""
        return self._unwatched >= self._frames

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """A right answer, or a cheap one."""
        self._cheats = self.unseen
        self._unwatched += 1
        if self._cheats:
            self._cheated.append(frame.sequence)
        return super().answer(frame)

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """An opening that fits the answer, and a reason to be honest for a while."""
        self._unwatched = 0
        self._cheats = challenge.sequence in self._cheated
        return super().answer_challenge(challenge)

    def instead_of(self, expert: Expert) -> Expert:
        """The cheap expert while it cheats."""
        return super().instead_of(expert) if self._cheats else expert


class ChangedOutput(Cheat):
    """Changes what it computed before it signs it, and opens the truth.

    Args:
        change: Makes of [R, H] what is signed; called for every frame in turn.
    """

    def __init__(self, seat: Seat, change: Change) -> None:
        super().__init__(seat)
        self._change = change

    def compute(self, work: Work) -> torch.Tensor:
        """[R, H] float32, changed."""
        return self._change(super().compute(work))


class NoOpening(CheapWeights):
    """Says nothing to a challenge."""

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """Nothing."""
        return None


class DelayedOpening(CheapWeights):
    """Opens when a share of the time for it has passed, and so many seconds more, without keeping frames waiting meanwhile."""

    def __init__(
        self, seat: Seat, cheapen: Cheapen, *, share: float, beyond_s: float = 0.0, opens_true: bool = False
    ) -> None:
        super().__init__(seat, cheapen, opens_true=opens_true)
        self._share = share
        self._beyond_s = beyond_s

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """Nothing now."""
        message = link_pb2.NodeMessage(opening=super().answer_challenge(challenge))
        delay_s = challenge.deadline_ms / 1000 * self._share + self._beyond_s
        self._loop.call_soon_threadsafe(
            self._loop.call_later, delay_s, lambda: self._send(message, lambda: None)
        )
        return None


class ForgedOpening(Cheat):
    """Signs its openings with a key that is not its own."""

    def sign_opening(
        self, challenge: link_pb2.Challenge, question: Question, opened: Activations
    ) -> link_pb2.Opening:
        """The right opening under the wrong key."""
        return signed_opening(Identity.generate(), challenge, question, opened)


class ReplayedOpening(CheapWeights):
    """Opens to every challenge what it opened to the first, under the new nonce."""

    def __init__(self, seat: Seat, cheapen: Cheapen) -> None:
        super().__init__(seat, cheapen)
        self._first: link_pb2.Opening | None = None

    def answer_challenge(self, challenge: link_pb2.Challenge) -> link_pb2.Opening | None:
        """The first opening."""
        self._first = self._first or super().answer_challenge(challenge)
        if self._first is None:
            return None
        again = link_pb2.Opening()
        again.CopyFrom(self._first)
        again.nonce = challenge.nonce
        return again


class Replay(Cheat):
    """Sends its first result again under each new number."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self._first: link_pb2.Result | None = None

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """The first result."""
        self._first = self._first or super().answer(frame)
        if self._first is None:
            return None
        again = link_pb2.Result()
        again.CopyFrom(self._first)
        again.sequence = frame.sequence
        return again


class Reorder(Cheat):
    """Keeps each second result back until the next is there, and sends both under each other's number."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self._kept: link_pb2.Result | None = None

    def answer(self, frame: link_pb2.Frame) -> link_pb2.Result | None:
        """Nothing, and then two results."""
        result = super().answer(frame)
        kept, self._kept = self._kept, result
        if kept is None or result is None:
            return None
        kept.sequence, result.sequence, self._kept = result.sequence, kept.sequence, None
        message = link_pb2.NodeMessage(result=kept)
        self._loop.call_soon_threadsafe(self._send, message, lambda: None)
        return result


class ForgedSignature(Cheat):
    """Signs its results with a key that is not its own."""

    def sign(self, frame: link_pb2.Frame, task: TaskStatement, output: torch.Tensor) -> link_pb2.Result:
        """The right result under the wrong key."""
        result = super().sign(frame, task, output)
        digest = tensor_digest(tensor_pb2.DTYPE_FLOAT32, output.shape, raw_bytes(output))
        statement = ResultStatement(task=task.digest(), output=digest, status=0)
        result.signature = Identity.generate().sign(statement.encode())
        return result


class ChangedSignature(Cheat):
    """Changes its signatures.

    Args:
        change: Makes of the right signature what is sent.
    """

    def __init__(self, seat: Seat, change: Callable[[bytes], bytes]) -> None:
        super().__init__(seat)
        self._change = change

    def sign(self, frame: link_pb2.Frame, task: TaskStatement, output: torch.Tensor) -> link_pb2.Result:
        """The right result with another signature."""
        result = super().sign(frame, task, output)
        result.signature = self._change(result.signature)
        return result
