"""A fingerprint trunk whose steps are made by nodes, one of which may lie, and an auditor that finds out.

Guarantees: a lie changes every key and value of its step, and so whatever follows from any of them; once the liar is convicted it has
no part in a step that begins later. Audits end in the order of a shuffled line, each exactly once, from the auditor's thread.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from folkmoot.coordinator.engine.engine import Engine
from folkmoot.errors import FolkmootError, UnavailableError
from folkmoot.ids import NodeId
from folkmoot.models.pool import AuditedStep, ExpertPool, StepTally
from folkmoot.models.trunk_spec import StepAttention

from .fingerprint_trunk import FingerprintTrunk

HONEST = NodeId("ab" * 32)
LIAR = NodeId("1a" * 32)
LIE = 7.0
FORGERY_SEEN_S = 0.1
"""Longer than a step takes."""


@dataclass(frozen=True)
class Audit:
    """One result that somebody waits for."""

    step: AuditedStep
    wrong: bool


@dataclass
class Auditor:
    """Ends audits when it is told to.

    Attributes:
        patience: So many audits wait until one is ended, so that steps run ahead; 0 ends each as soon as it can.
        fails_with: What a result cannot be audited for; None when all can.
    """

    patience: int = 0
    seed: int = 0
    fails_with: FolkmootError | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: list[Audit] = field(default_factory=list)
    closed: bool = False


class VillageTrunk(FingerprintTrunk):
    """A `StepTrunk`.

    Attributes:
        lies_in: Whether the liar has a part in a step, and lies, by the step's number from 1 on.
        convicted: Whether the liar was found out.
        holds_at: The number of the step that waits for `go_on`; None for none.
        forges: Whether the liar's results prove, some time after they were used, not to be its own.
        breaks: What a step with a forged result ends with; None where it goes on.
        convict_at: The number of the step during which the liar is convicted, whatever audits say; None for never.
    """

    def __init__(self, context_length: int = 96, surprise: float = 0.3) -> None:
        super().__init__(context_length, surprise)
        self.lies_in: Callable[[int], bool] = lambda number: False
        self.convicted = False
        self.forges = False
        self.breaks: Exception | None = None
        self.convict_at: int | None = None
        self.holds_at: int | None = None
        self._go_on = threading.Event()
        self.audits = Auditor()
        self._own = threading.local()
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._audit, daemon=True)

    def trusts(self, node: NodeId) -> bool:
        """What the engine asks."""
        return node != LIAR or not self.convicted

    def serve(self, engine: Engine) -> None:
        """Starts the auditor of this engine."""
        self._engine = engine
        self._thread.start()

    def close(self) -> None:
        """Ends the auditor."""
        with self.audits.changed:
            self.audits.closed = True
            self.audits.changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def go_on(self) -> None:
        """Lets the step that is held run."""
        self._go_on.set()

    def convict(self) -> None:
        """The verdict falls."""
        assert self._engine is not None
        self.convicted = True
        self._engine.rewind(LIAR)

    def end_audits(self, count: int | None = None) -> None:
        """Ends so many audits that wait, or all, in this thread."""
        with self.audits.changed:
            audits = self.audits.waiting[:count]
            del self.audits.waiting[: len(audits)]
        for audit in audits:
            self._end(audit)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: StepAttention,
        pool: ExpertPool,
        tally: StepTally,
        logits_at: torch.Tensor,
    ) -> torch.Tensor:
        """[S, V], as `Trunk.forward`."""
        with self._lock:
            number = self.steps + 1
        lies = self.lies_in(number) and not self.convicted
        self._own.lies = lies
        tally.nodes |= {HONEST, LIAR} if lies else {HONEST}
        if tally.audited is not None:
            assert len(tally.audited.rows) == len(input_ids)
            audits = [Audit(tally.audited, wrong=False)]
            if lies and not self.forges:
                audits.append(Audit(tally.audited, wrong=True))
            tally.audits += 2 if lies else 1
            with self.audits.changed:
                self.audits.waiting += audits
                self.audits.changed.notify_all()
        if lies and self.forges:
            assert tally.unchecked is not None, "an engine checks signatures beside its steps"
            tally.unchecked.begin()
            threading.Timer(FORGERY_SEEN_S, tally.unchecked.end, kwargs={"right": False}).start()
        if number == self.convict_at:
            self.convict()
        if number == self.holds_at:
            assert self._go_on.wait(30), "never let go"
        try:
            logits = super().forward(input_ids, positions, attention, pool, tally, logits_at)
        except UnavailableError:
            tally.nodes.clear()
            raise
        if lies and self.breaks is not None:
            raise self.breaks
        return logits

    def _codes(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        codes = super()._codes(input_ids, positions)
        return codes + LIE if self._own.lies else codes

    def _audit(self) -> None:
        audits, chance = self.audits, random.Random(self.audits.seed)
        while True:
            with audits.changed:
                audits.changed.wait_for(
                    lambda: audits.closed or 0 <= audits.patience < len(audits.waiting), timeout=0.002
                )
                if audits.closed:
                    return
                if not audits.waiting or audits.patience < 0:
                    continue
                audit = audits.waiting.pop(chance.randrange(len(audits.waiting)))
            self._end(audit)

    def _end(self, audit: Audit) -> None:
        if not audit.step.wanted:
            return
        if self.audits.fails_with is not None:
            audit.step.impossible(self.audits.fails_with)
        elif audit.wrong:
            self.convict()
        else:
            audit.step.passed()
