"""How long nodes that give no work for now are waited for before their experts are placed elsewhere.

Guarantees: a node has at most one grace at a time, and nothing happens when it is forgotten before it is over. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ...ids import NodeId, short
from .roster import Member

log = logging.getLogger(__name__)


class Graces:
    """The graces of one network's nodes."""

    def __init__(self, grace_s: float, over: Callable[[Member], None]) -> None:
        """`over` is told of each member that was waited for in vain."""
        self._grace_s = grace_s
        self._over = over
        self._timers: dict[NodeId, asyncio.TimerHandle] = {}

    def begin(self, member: Member, grace_s: float | None = None) -> None:
        """Waits for a member from now on; for how long if not as long as for others."""
        self.forget(member.node)
        loop = asyncio.get_running_loop()
        self._timers[member.node] = loop.call_later(
            self._grace_s if grace_s is None else grace_s, self._end, member
        )

    def forget(self, node: NodeId) -> None:
        """Does not wait for a node any more; harmless when nobody does."""
        timer = self._timers.pop(node, None)
        if timer is not None:
            timer.cancel()

    def clear(self) -> None:
        """Waits for nobody any more."""
        for node in list(self._timers):
            self.forget(node)

    def _end(self, member: Member) -> None:
        del self._timers[member.node]
        log.info(
            "node %s (%s) is %s for too long; its experts are placed elsewhere",
            short(member.node),
            member.name or "not back since the coordinator started",
            member.state,
        )
        self._over(member)
