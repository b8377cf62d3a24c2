"""Results that somebody waits for: audited whole, at once, and before whatever else waits.

Guarantees: of one node no more than `AT_ONCE` are asked for at the same time, so that a node which opens one after another is given
the time for all; one that did not open is not asked for a while, and what it is not asked for is computed, so that silence holds
nobody up for long; whoever waits is told once, when every row was found right; what nobody waits for any more is not asked for.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ...errors import UnavailableError
from ...trust.audit_policy import AuditSubject
from ..dispatch.verified_result import Cover, VerifiedResult
from .selection import Selection

AT_ONCE: Final = 4
"""Enough that a node need not wait for the next question to travel."""
SILENT_S: Final = 60.0
"""How long a node is not asked that did not open."""


class AuditImpossibleError(UnavailableError):
    """A result behind an audited answer could be neither audited nor computed again."""

    code = "audit_impossible"


@dataclass(slots=True, eq=False)
class Covering:
    """The audit of all rows of one result that somebody waits for.

    Attributes:
        verified: The result.
        cover: Which rows, and who waits.
        left: Questions that have not been answered, or not even asked.
        passed: Whether all openings so far looked honest.
        subjects: Whom it is about.
        over: Whether it has ended.
    """

    verified: VerifiedResult
    cover: Cover
    left: int
    passed: bool = True
    subjects: set[AuditSubject] = field(default_factory=set)
    over: bool = False


@dataclass(frozen=True, slots=True)
class Urgent:
    """A question that is to be asked."""

    covering: Covering
    selection: Selection


class UrgentLine:
    """Those of one node, in the order in which its results came. For one thread."""

    def __init__(self) -> None:
        self._out = 0
        self._silent_until_s = -math.inf
        self._waiting: deque[Urgent] = deque()

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is out."""
        return not self._waiting and not self._out

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, urgent: Urgent) -> None:
        """One more to ask."""
        self._waiting.append(urgent)

    def next(self, now_s: float) -> Urgent | None:
        """The next to ask about, or to compute, if that may be done now."""
        may = self._out < AT_ONCE or self.silent(now_s)
        return self._waiting.popleft() if self._waiting and may else None

    def silent(self, now_s: float) -> bool:
        """Whether the node did not open a little while ago."""
        return now_s < self._silent_until_s

    def asked(self) -> None:
        """A question has gone out."""
        self._out += 1

    def ended(self, now_s: float, *, opened: bool) -> None:
        """It has come back, opened or not, or will not."""
        self._out -= 1
        if not opened:
            self._silent_until_s = now_s + SILENT_S
