"""A step loop: takes a step from the roster, runs it through the trunk, chooses tokens, writes them down.

Guarantees: a step that fails harms only the answers in it; a fault is logged once, with its trace; nothing but closing the engine ends
the loop. Signatures of results are checked beside the step that uses them, and before anything comes of it; a step that used what its
node did not sign is taken again, however it ended. A draft is kept where it is the very token that is chosen at its place, and nothing is
chosen otherwise for its sake, so that an answer is the same with drafts and without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from time import monotonic
from typing import Protocol

import torch

from ...errors import UnavailableError
from ...models.pending_checks import PendingChecks
from ...models.pool import ExpertPool, StepTally
from ...models.trunk_spec import StepAttention, TrunkSpec
from .answer import Answer
from .faults import EngineFault
from .kv_memory import KvMemory
from .observer import EngineObserver
from .paged_attention import PagedAttention
from .requests import Delta
from .roster import Roster
from .sampling import Choice, choose
from .scheduler import Chunk, StepPlan
from .step_layout import StepLayout
from .written import Written

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
        audits = self._roster.audits(plan)
        tally = StepTally(step=plan.number, audited=audits, unchecked=PendingChecks())
        answers = self._roster.answers(plan)
        sampled = [pair for pair in zip(answers, plan.chunks, strict=True) if pair[1].samples]
        choices: list[Choice | None] = []
        give_up: Callable[[], None] | None = None
        try:
            choices = self._compute(plan, sampled, tally)
        except UnavailableError as error:
            give_up = partial(self._roster.postpone, plan, error)
        except Exception as error:
            log.exception("a step of %d sequences failed", len(answers))
            give_up = partial(self._roster.abandon, plan, _fault(error))
        tally.settle()
        for answer in answers:
            answer.generation.account(tally)
        # Whatever went wrong in a step that used what was not signed may have come of that: it is taken again.
        if give_up is not None and not tally.spoilt:
            give_up()
            return
        rows = iter(choices)
        written = [] if tally.spoilt else [_write(answer, chunk, rows) for answer, chunk in sampled]
        self._roster.settle(plan, written, tally, audits)
        self._observer.stepped(plan.tokens, monotonic() - began_s)
        proposed = sum(len(chunk.drafts) for _, chunk in sampled)
        if proposed:
            self._observer.drafted(proposed, sum(entry.drafts_kept for entry in written))

    @torch.inference_mode()
    def _compute(
        self, plan: StepPlan, sampled: Sequence[tuple[Answer, Chunk]], tally: StepTally
    ) -> list[Choice | None]:
        layout = StepLayout(plan, self._memory.page_tokens, self._trunk.spec.dtype)
        self._memory.clear(plan.fresh_pages)
        attention = PagedAttention(self._trunk.spec, self._memory, layout)
        logits = self._trunk.forward(
            layout.input_ids, layout.positions, attention, self._pool, tally, layout.sampled_rows
        )
        if not sampled:
            return []
        return choose(
            logits, [draw for answer, chunk in sampled for draw in answer.writer.draws(len(chunk.drafts) + 1)]
        )


def _write(answer: Answer, chunk: Chunk, rows: Iterator[Choice | None]) -> Written:
    """Writes one answer's tokens down: what is chosen after its last token, and after each draft for as long as the draft
    before was the token chosen. What goes wrong there fails this answer alone.
    """
    choices = list(islice(rows, len(chunk.drafts) + 1))
    if chunk.drafts and None in choices:
        log.warning(
            "guessed tokens led to logits that are not numbers; their sequence is computed again without"
        )
        return Written(answer, ())
    deltas: list[Delta] = []
    for choice, draft in zip(choices, (*chunk.drafts, None), strict=True):
        if choice is None:
            log.error("the logits of a sequence are not numbers")
            message = "the model's output is not a number"
            return Written(answer, (), EngineFault(message, advice="the model's files may be damaged"))
        try:
            deltas.append(answer.writer.write(choice))
        except Exception as error:
            log.exception("token %d could not be written down", choice.token_id)
            return Written(answer, tuple(deltas), _fault(error))
        if deltas[-1].finish_reason is not None or choice.token_id != draft:
            break
    return Written(answer, tuple(deltas))


def _fault(error: Exception) -> EngineFault:
    return EngineFault(
        f"the engine failed unexpectedly ({type(error).__name__})",
        advice="the coordinator's log has the trace",
    )
