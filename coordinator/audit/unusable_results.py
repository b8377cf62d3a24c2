"""Results that a node signed and that nothing can be computed with: NaN, infinity, numbers beyond all models.

Guarantees: such a result is no frame's answer, and is looked at all the same, for it is signed: where the recomputation is finite and in
range, its rows are wrong, and that is a verdict like any other; where float32 may have left its range honestly, nobody is accused. For
one thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...protos.limits import MAX_ACTIVATION
from ...trust.audit_statements import OpeningKind
from ..dispatch.verified_result import VerifiedResult
from .chooser import Chooser
from .consequences import Consequences
from .counters import AuditOutcome
from .examiner import Examiner
from .question import Question, signed_output


@dataclass(frozen=True, slots=True)
class Unusable:
    """A result that its node signed, and that was rejected for its numbers."""

    verified: VerifiedResult


class UnusableResults:
    """Of one coordinator."""

    def __init__(self, chooser: Chooser, examiner: Examiner, consequences: Consequences) -> None:
        self._chooser = chooser
        self._examiner = examiner
        self._consequences = consequences

    def look_into(self, verified: VerifiedResult) -> None:
        """Computes again the rows that nothing can be computed with, as many as one audit may ask for.

        Raises:
            FolkmootError: when canonical weights cannot be read.
        """
        node = verified.host.node
        if not self._consequences.serves(node):
            return
        # A NaN is not at most anything.
        usable = np.abs(signed_output(verified)) <= MAX_ACTIVATION
        rows = np.flatnonzero(~usable.all(axis=1))[: self._chooser.most_rows]
        if not len(rows):
            return
        for selection in self._chooser.covering(verified, rows):
            finding = self._examiner.recompute_alone(Question.about(verified, selection, OpeningKind.RAW))
            self._consequences.ended(node, finding)
            if finding.outcome is AuditOutcome.WRONG:
                return
