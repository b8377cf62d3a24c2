"""The central seam: where a layer's tokens go to be worked on by their experts.

Guarantees: whoever implements `ExpertPool` returns, for each row, the sum over the row's experts of gate x expert(row),
accumulated in float32, whatever machines computed it. The trunk cannot tell one implementation from another.

Letters: T tokens of the step, K experts a token, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..errors import FolkmootError
from ..ids import NodeId
from .pending_checks import PendingChecks


class AuditedStep(Protocol):
    """A step of which some rows count only once every result about them has passed an audit.

    Whoever gets results of such a step sees to it that each of them which has such rows ends in one call of `passed` or
    `impossible`, from any thread, or in none when it was found wrong or is wanted no more.
    """

    @property
    def rows(self) -> npt.NDArray[np.bool_]:
        """[T], whether a row of the step is one of them."""
        ...

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for the audits."""
        ...

    def passed(self) -> None:
        """One more result was found right."""
        ...

    def impossible(self, error: FolkmootError) -> None:
        """A result cannot be audited; the error says why."""
        ...


@dataclass
class StepTally:
    """What one step's expert calls cost and who answered them; filled in by the pool, read by the engine.

    Attributes:
        nodes: Nodes whose results the step consumed.
        layers: Expert calls that returned, one for each MoE layer of the model in a whole step.
        results_verified: Results whose signature was checked and found right.
        results_rejected: Results that were thrown away.
        retries: Frames that were sent again to another replica.
        results_own: Parts of answers that the coordinator computed itself.
        audits: Results that have rows of `audited`, and were handed to whoever audits them.
        audited: What the pool is told of rows that must be audited; None when there are none.
        step: What the pool is told of the step's number; 0 when it has none.
        unchecked: Where the pool may leave results that it has used to be checked beside the step; whoever gives it calls `settle`
            before anything comes of the step. None when results must be checked before they are used.
        spoilt: Whether a result that was used proved not to be its node's, so that nothing may come of the step.
    """

    nodes: set[NodeId] = field(default_factory=set)
    layers: int = 0
    results_verified: int = 0
    results_rejected: int = 0
    retries: int = 0
    results_own: int = 0
    audits: int = 0
    audited: AuditedStep | None = None
    step: int = 0
    unchecked: PendingChecks | None = None
    spoilt: bool = False

    def settle(self) -> None:
        """Returns when all results that were used have been checked, and the accounting says so."""
        if self.unchecked is not None:
            right, wrong = self.unchecked.wait()
            self.results_verified += right
            self.results_rejected += wrong
            self.spoilt = self.spoilt or wrong > 0


class ExpertFuture(Protocol):
    """The pending answer of one layer's expert call."""

    def result(self) -> torch.Tensor:
        """Waits for the answer: [T, H] float32.

        Raises:
            UnavailableError: when some expert had no host that answered within the pool's limit. The step cannot go on.
        """
        ...


class ExpertPool(Protocol):
    """Something that can run the experts of any MoE layer of one model."""

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        """Starts one layer's expert call and returns at once.

        Args:
            layer: Index of the decoder layer.
            hidden: [T, H] in the model's dtype; the pool copies what it needs before it returns.
            expert_ids: [T, K] int64; a row has no expert twice.
            gates: [T, K] float32.
            tally: Where the call's accounting is added, at the latest when `result` returns.
        """
        ...
