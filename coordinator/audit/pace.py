"""When a node may be asked to open a result: at once while it has nothing else to do, and so seldom otherwise that its work hardly
feels it.

Guarantees: pure decisions over a clock that is given. Over any time in which results keep coming, audits take no more than the share
that was set, and the credit that a node begins with, so that a newcomer's first results are asked about while it works.
"""

from __future__ import annotations

QUIET_S = 0.05
"""A node that has answered nothing for so long has nothing else to do."""
CREDIT_S = 0.1


class Pace:
    """The pace of one node's audits."""

    def __init__(self, share: float, now_s: float) -> None:
        """`share` of a busy node's time is what audits may take."""
        self._share = share
        self._credit_s = CREDIT_S
        self._counted_s = now_s
        self._worked_s = float("-inf")

    @property
    def worked_s(self) -> float:
        """When the node last answered a frame."""
        return self._worked_s

    def worked(self, now_s: float) -> None:
        """The node has answered a frame."""
        self._worked_s = now_s

    def wait_s(self, now_s: float) -> float:
        """How long until the next audit may begin; 0 when it may now."""
        self._count(now_s)
        quiet_s = max(self._worked_s + QUIET_S - now_s, 0.0)
        return 0.0 if self._credit_s > 0 else min(quiet_s, -self._credit_s / self._share)

    def audited(self, began_s: float, now_s: float) -> None:
        """An audit is over; what it took while the node was working is paid for."""
        self._count(now_s)
        if self._worked_s + QUIET_S > began_s:
            self._credit_s -= now_s - began_s

    def _count(self, now_s: float) -> None:
        self._credit_s = min(self._credit_s + (now_s - self._counted_s) * self._share, CREDIT_S)
        self._counted_s = now_s
