"""A step loop: takes a step from the roster, runs it through the trunk, chooses tokens, writes them down.

Guarantees: a step that fails harms only the answers in it; a fault is logged once, with its trace; nothing but closing the
engine ends the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

import torch

from ...errors import UnavailableError
from ...models.pool import ExpertPool, StepTally
from ...models.trunk_spec import StepAttention, TrunkSpec
from .answer import Answer
from .faults import EngineFault
from .kv_memory import KvMemory
from .observer import EngineObserver
from .paged_attention import PagedAttention
from .roster import Roster, Written
from .sampling import Choice, choose
from .scheduler import StepPlan
from .step_layout import StepLayout

log = logging.getLogger(__name__)


class StepTrunk(Protocol):
    """The part of a trunk that the engine calls; `folkmoot.models.trunk.Trunk` is the one that serves."""

    @property
    def spec(self) -> TrunkSpec:
        """Its sizes."""
        ...

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: StepAttention,
        pool: ExpertPool,
        tally: StepTally,
        logits_at: torch.Tensor,
    ) -> torch.Tensor:
        """One packed step: [S, V] float32 for the S rows of `logits_at`."""
        ...


class Lane:
    """One of the step loops; `run` is a thread's target."""

    def __init__(
        self, trunk: StepTrunk, pool: ExpertPool, memory: KvMemory, roster: Roster, observer: EngineObserver
    ) -> None:
        self._trunk = trunk
        self._pool = pool
        self._memory = memory
        self._roster = roster
        self._observer = observer

    def run(self) -> None:
        """Takes steps until the engine is closed."""
        while True:
            plan: StepPlan | None = None
            try:
                plan = self._roster.next_step()
                if plan is None:
                    return
                self._step(plan)
            except Exception as error:
                log.exception("a lane failed outside a step")
                if plan is None:
                    self._roster.abandon_all(_fault(error))
                else:
                    self._roster.abandon(plan, _fault(error))

    def _step(self, plan: StepPlan) -> None:
        began_s = monotonic()
        tally = StepTally()
        answers = self._roster.answers(plan)
        sampled = [answer for answer, chunk in zip(answers, plan.chunks, strict=True) if chunk.samples]
        try:
            choices = self._compute(plan, sampled, tally)
        except UnavailableError as error:
            self._roster.postpone(plan, error)
            return
        except Exception as error:
            log.exception("a step of %d sequences failed", len(answers))
            self._roster.abandon(plan, _fault(error))
            return
        finally:
            for answer in answers:
                answer.generation.account(tally)
        written = [_write(answer, choice) for answer, choice in zip(sampled, choices, strict=True)]
        self._roster.settle(plan, written)
        self._observer.stepped(plan.tokens, monotonic() - began_s)

    @torch.inference_mode()
    def _compute(self, plan: StepPlan, sampled: Sequence[Answer], tally: StepTally) -> list[Choice | None]:
        layout = StepLayout(plan, self._memory.page_tokens, self._trunk.spec.dtype)
        self._memory.clear(plan.fresh_pages)
        attention = PagedAttention(self._trunk.spec, self._memory, layout)
        logits = self._trunk.forward(
            layout.input_ids, layout.positions, attention, self._pool, tally, layout.sampled_rows
        )
        return choose(logits, [answer.writer.draw for answer in sampled]) if sampled else []


def _write(answer: Answer, choice: Choice | None) -> Written:
    """Writes one answer's token down; what goes wrong there fails this answer alone."""
    if choice is None:
        log.error("the logits of a sequence are not numbers")
        message = "the model's output is not a number"
        return Written(answer, -1, EngineFault(message, advice="the model's files may be damaged"))
    try:
        return Written(answer, choice.token_id, answer.writer.write(choice))
    except Exception as error:
        log.exception("token %d could not be written down", choice.token_id)
        return Written(answer, choice.token_id, _fault(error))


def _fault(error: Exception) -> EngineFault:
    return EngineFault(
        f"the engine failed unexpectedly ({type(error).__name__})",
        advice="the coordinator's log has the trace",
    )
