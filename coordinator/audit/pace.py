"""When a node may be asked to open more than is due, and when the coordinator may look at that: one opening after another while they have
nothing else to do, and so seldom otherwise that their work hardly feels it.

Guarantees: pure decisions over a clock that is given. One opening at a time is asked for. Over any time in which results keep
coming, these audits take no more than the share that was set, and the credit that a node begins with, so that the first results of an
expert are asked about while the node works. A node that opens slowly is asked little more seldom: what counts is mostly what the
opening is worth. What the lowest rate asks for keeps to no pace (`line.py`).
"""

from __future__ import annotations

import math

QUIET_S = 0.5
"""A node that has answered nothing for so long has nothing else to do: pauses between the layers of a step are far shorter."""
CREDIT_S = 0.03
MOST_OF_WORTH = 8.0
"""How many times an opening's worth may be charged for it, however long it took."""


class Pace:
    """The pace of one machine's audits."""

    def __init__(self, share: float, now_s: float) -> None:
        """`share` of a busy machine's time is what audits may take."""
        self._share = share
        self._credit_s = CREDIT_S
        self._counted_s = now_s
        self._worked_s = float("-inf")
        self._asked: tuple[float, float] | None = None

    @property
    def worked_s(self) -> float:
        """When the node last answered a frame."""
        return self._worked_s

    def worked(self, now_s: float) -> None:
        """The node has answered a frame."""
        self._worked_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until the next opening may be asked for; 0 when it may now, infinite while one is."""
        if self._asked is not None:
            return math.inf
        self._count(now_s)
        quiet_s = max(self._worked_s + QUIET_S - now_s, 0.0)
        return 0.0 if self._credit_s > 0 else min(quiet_s, -self._credit_s / self._share)

    def asked(self, now_s: float, worth_s: float) -> None:
        """An opening is asked for that should take the node so long."""
        self._asked = now_s, worth_s

    def ended(self, now_s: float) -> None:
        """It came, or will not; what it took while the node was working is paid for."""
        if self._asked is None:
            return
        began_s, worth_s = self._asked
        self._asked = None
        self.took(min(max(now_s - began_s, worth_s), worth_s * MOST_OF_WORTH), began_s, now_s)

    def took(self, spent_s: float, began_s: float, now_s: float) -> None:
        """So much time was spent on audits between these moments; that is paid for if there was work."""
        self._count(now_s)
        if self._worked_s + QUIET_S > began_s:
            self._credit_s -= spent_s

    def _count(self, now_s: float) -> None:
        self._credit_s = min(self._credit_s + (now_s - self._counted_s) * self._share, CREDIT_S)
        self._counted_s = now_s
