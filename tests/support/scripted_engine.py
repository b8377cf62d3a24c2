"""An engine that says what a test tells it to: real generations, no model.

Guarantees: each submitted prompt plays the script from its start, step by step, in a thread of its own; a `Hold` stops the
script until the test lets it go, so that no test has to sleep.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from folkmoot.coordinator.engine.delivery import STREAMED, Delivery
from folkmoot.coordinator.engine.generation import Generation
from folkmoot.coordinator.engine.requests import Delta, SamplingParams, TokenLogprob
from folkmoot.errors import FolkmootError
from folkmoot.ids import NodeId
from folkmoot.models.pool import StepTally

NODES = (NodeId("ab" * 32), NodeId("cd" * 32))


@dataclass(frozen=True)
class Say:
    """One token with this text."""

    text: str


@dataclass(frozen=True)
class Finish:
    """The end of the answer."""

    reason: Literal["stop", "length"] = "stop"
    text: str = ""


@dataclass(frozen=True)
class Fail:
    """The answer fails."""

    error: FolkmootError


@dataclass(frozen=True)
class Hold:
    """Nothing happens until `go` is set or the answer is cancelled."""

    go: threading.Event = field(default_factory=threading.Event)


Step = Say | Finish | Fail | Hold


@dataclass(frozen=True)
class Submitted:
    """What the API asked of the engine."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    delivery: Delivery
    generation: Generation
    cancelled: threading.Event


class ScriptedEngine:
    """Plays a script for each prompt; `refusal`, when set, is raised by `submit` instead."""

    def __init__(self, *script: Step) -> None:
        self.script: Sequence[Step] = script
        self.refusal: Exception | None = None
        self.submitted: list[Submitted] = []
        self.arrived = threading.Event()
        self._ids = itertools.count()

    def submit(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, delivery: Delivery = STREAMED
    ) -> Generation:
        """Starts the script."""
        if self.refusal is not None:
            raise self.refusal
        cancelled = threading.Event()
        generation = Generation(f"scripted-{next(self._ids)}", len(prompt_ids), cancelled.set, delivery)
        self.submitted.append(Submitted(tuple(prompt_ids), sampling, delivery, generation, cancelled))
        self.arrived.set()
        threading.Thread(
            target=self._play, args=(self.submitted[-1], tuple(self.script)), daemon=True
        ).start()
        return generation

    def _play(self, request: Submitted, script: Sequence[Step]) -> None:
        generation, wants = request.generation, request.sampling.logprobs
        for step in script:
            match step:
                case Say(text):
                    generation.account(StepTally({NODES[0], NODES[1]}, 1, 2, 0, 0))
                    generation.push(Delta(text, (65,), logprobs_of(text, wants)))
                case Finish(reason, text):
                    generation.account(StepTally({NODES[0]}, 1, 1, 1, 1))
                    generation.push(Delta(text, (0,), logprobs_of(text, wants), reason))
                case Fail(error):
                    generation.fail(error)
                case Hold(go):
                    while not go.wait(0.01):
                        if request.cancelled.is_set():
                            return
            if request.delivery.audited:
                generation.release(generation.completion_tokens)


def logprobs_of(text: str, count: int | None) -> tuple[TokenLogprob, ...] | None:
    """Made-up log-probabilities of one token, with as many alternatives as were asked for."""
    if count is None:
        return None
    top = tuple(
        TokenLogprob(index, f"{text}{index}", f"{text}{index}".encode(), -1.0 - index)
        for index in range(count)
    )
    return (TokenLogprob(65, text, text.encode(), -0.5, top),)
