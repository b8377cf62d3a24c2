"""The results of one node that wait for their audit.

Guarantees: which of them is taken next, and which is given up when there is no room, is drawn from a secure source, so that
no node can tell from what it was asked which of its results are out of danger.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...trust.audit_policy import AuditSubject
from ..dispatch.verified_result import VerifiedResult
from .pace import Pace
from .secret_draws import SecretDraws


@dataclass(frozen=True, slots=True)
class Waiting:
    """A result that is to be audited, and for which experts' sake."""

    verified: VerifiedResult
    subjects: list[AuditSubject]


class Line:
    """One node's. For one thread.

    Attributes:
        pace: How often the node may be asked.
        size: Bytes of all that waits.
    """

    def __init__(self, pace: Pace, draws: SecretDraws) -> None:
        self.pace = pace
        self.size = 0
        self._draws = draws
        self._waiting: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """One more that waits."""
        self._waiting.append(waiting)
        self.size += waiting.verified.size

    def draw(self) -> Waiting:
        """Takes any one of them. Raises IndexError when none waits."""
        at = int(self._draws.take(1)[0] * len(self._waiting))
        last = self._waiting.pop()
        drawn = last if at == len(self._waiting) else self._waiting[at]
        if drawn is not last:
            self._waiting[at] = last
        self.size -= drawn.verified.size
        return drawn
