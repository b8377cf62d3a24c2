"""What the contributor wants of this node, told on each link.

Guarantees: the newest wish counts, and each link is told it; whoever waits for a drain is told exactly once how it ended,
whether others took over, the contributor did not want to wait, or took it back. Event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from ..node_states import Wish
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import MAX_REASON
from ..protos.wire_states import wire_wish


class DrainEnd(StrEnum):
    """How a drain ended."""

    RELIEVED = "relieved"
    """Other nodes have all that this one held: it may go."""
    AT_ONCE = "at once"
    """The contributor did not want to wait: it may go, and experts may be left without a host."""
    TAKEN_BACK = "taken back"
    """The contributor wants something else now."""


class Wishes:
    """The wish of one node's contributor."""

    def __init__(self, tell: Callable[[link_pb2.NodeMessage], bool]) -> None:
        """`tell` sends a message on the present link; False when there is none."""
        self.wish = Wish.SERVE
        self._reason = ""
        self._at_once = False
        self._tell = tell
        self._drain: asyncio.Future[DrainEnd] | None = None

    def serve(self) -> None:
        """Back to work."""
        self._want(Wish.SERVE, "")

    def pause(self, reason: str) -> None:
        """No work, for now."""
        self._want(Wish.PAUSE, reason)

    def drain(self, reason: str) -> asyncio.Future[DrainEnd]:
        """To go when others have taken over; how it ended. Wanting it again changes nothing."""
        if self._drain is None:
            self._want(Wish.DRAIN, reason)
            self._drain = asyncio.get_running_loop().create_future()
        return self._drain

    def go_at_once(self) -> None:
        """Not to wait for others any more; nothing when the node does not drain."""
        if self._drain is None:
            return
        self._at_once = True
        if not self._tell(self.message):
            self._end(DrainEnd.AT_ONCE)

    def may_go(self) -> None:
        """The coordinator lets the node go."""
        self._end(DrainEnd.AT_ONCE if self._at_once else DrainEnd.RELIEVED)

    def gone(self, drain: asyncio.Future[DrainEnd]) -> None:
        """Nobody answers any more: whoever waits for this drain need not."""
        if drain is self._drain:
            self._end(DrainEnd.AT_ONCE)

    @property
    def message(self) -> link_pb2.NodeMessage:
        """The wish on the wire."""
        wish = link_pb2.Wish(
            kind=wire_wish(self.wish), reason=self._reason[:MAX_REASON], at_once=self._at_once
        )
        return link_pb2.NodeMessage(wish=wish)

    def _want(self, wish: Wish, reason: str) -> None:
        self._end(DrainEnd.TAKEN_BACK)
        self._drain = None
        self.wish, self._reason, self._at_once = wish, reason, False
        self._tell(self.message)

    def _end(self, end: DrainEnd) -> None:
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(end)
