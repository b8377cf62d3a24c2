"""What waits to be written to a link.

Guarantees: messages leave in the order in which they were posted; whoever reads from the coordinator waits in `room` while
too many messages wait, so a coordinator that sends without reading fills its own pipe and not the node's memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..protos.folkmoot.v1 import link_pb2

MAX_WAITING = 256
"""Messages that may wait before nothing more is read from the coordinator."""


class Outbox:
    """The queue between a node and its link's one writer."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[link_pb2.NodeMessage, Callable[[], None] | None]] = deque()
        self._posted = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def post(self, message: link_pb2.NodeMessage, leaves: Callable[[], None] | None = None) -> None:
        """Queues a message; `leaves` is called when its turn has come."""
        if self._closed:
            return
        self._waiting.append((message, leaves))
        self._posted.set()
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
        self._room.set()

    async def room(self) -> None:
        """Returns when not too many messages wait."""
        await self._room.wait()

    async def next(self) -> link_pb2.NodeMessage:
        """The next message to write."""
        while not self._waiting:
            self._posted.clear()
            await self._posted.wait()
        message, leaves = self._waiting.popleft()
        if len(self._waiting) < MAX_WAITING:
            self._room.set()
        if leaves is not None:
            leaves()
        return message
