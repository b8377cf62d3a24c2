"""What waits to be written to a link.

Guarantees: messages leave in the order in which they were posted; where uploads have a limit, results and openings wait for it, and
nothing else does: pongs, refusals, holdings and the goodbye pass them by, and results wait for those in turn. Whoever reads from
the coordinator waits in `room` while too many messages wait, so a coordinator that sends without reading fills its own pipe and not
the node's memory; of what waits for the limit there is no more than the executor takes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from ..protos.folkmoot.v1 import link_pb2
from .rate_limit import RateLimit

_LIMITED = frozenset({"result", "opening"})

MAX_WAITING = 256
"""Messages that may wait before nothing more is read from the coordinator."""


class Outbox:
    """The queue between a node and its link's one writer.

    Args:
        uploads: What results and openings wait for.
    """

    def __init__(self, uploads: RateLimit | None = None) -> None:
        self._uploads = uploads or RateLimit()
        self._waiting: deque[tuple[link_pb2.NodeMessage, Callable[[], None] | None]] = deque()
        self._limited: deque[tuple[link_pb2.NodeMessage, Callable[[], None] | None]] = deque()
        self._limited_until_s: float | None = None
        """When the first of the limited may leave, on the event loop's clock; None while that was not asked."""
        self._posted = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def post(self, message: link_pb2.NodeMessage, leaves: Callable[[], None] | None = None) -> None:
        """Queues a message; `leaves` is called when its turn has come."""
        if self._closed:
            return
        self._posted.set()
        if self._uploads.bytes_per_s and message.WhichOneof("body") in _LIMITED:
            self._limited.append((message, leaves))
            return
        self._waiting.append((message, leaves))
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()

    async def send(self, message: link_pb2.NodeMessage) -> None:
        """Queues a message and returns when its turn has come."""
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def leaves() -> None:
            if not left.done():
                left.set_result(None)

        self.post(message, leaves)
        await left

    def close(self) -> None:
        """Nothing will be written any more: what waits is forgotten, and nobody waits for room."""
        self._closed = True
        self._waiting.clear()
        self._limited.clear()
        self._room.set()

    async def room(self) -> None:
        """Returns when not too many messages wait."""
        await self._room.wait()

    async def next(self) -> link_pb2.NodeMessage:
        """The next message to write."""
        while not self._waiting:
            if self._limited and (wait_s := self._wait_s()) <= 0:
                self._limited_until_s = None
                return _left(*self._limited.popleft())
            self._posted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._limited else None):
                    await self._posted.wait()
        message, leaves = self._waiting.popleft()
        if self._uploads.bytes_per_s:  # or nobody needs to know how long the message is
            self._uploads.owed_s(message.ByteSize())
        if len(self._waiting) < MAX_WAITING:
            self._room.set()
        return _left(message, leaves)

    def _wait_s(self) -> float:
        """How long the first of the limited has to wait still."""
        now_s = asyncio.get_running_loop().time()
        if self._limited_until_s is None:
            self._limited_until_s = now_s + self._uploads.owed_s(self._limited[0][0].ByteSize())
        return self._limited_until_s - now_s


def _left(message: link_pb2.NodeMessage, leaves: Callable[[], None] | None) -> link_pb2.NodeMessage:
    if leaves is not None:
        leaves()
    return message
