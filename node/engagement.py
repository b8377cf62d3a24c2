"""One coordinator that a running node works for.

Guarantees: whatever is logged while working for a coordinator carries its name; how it ended is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import FolkmootError
from ..logs import working_for
from .daemon import NodeDaemon
from .joined import Joined
from .tasks import ended

T = TypeVar("T")


class Engagement:
    """A coordinator, and the daemon that works for it.

    Attributes:
        joined: Which coordinator.
        daemon: What works for it.
        leaving: Whether it is drained in order to be left; it goes on until then while the node rests.
        error: What ended the work for good; None while it goes on, or when it was stopped.
    """

    def __init__(self, joined: Joined, daemon: NodeDaemon) -> None:
        self.joined = joined
        self.daemon = daemon
        self.leaving = False
        self.error: FolkmootError | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether it has begun."""
        return self._watching is not None

    @property
    def over(self) -> bool:
        """Whether it has ended by itself."""
        return self._watching is not None and self._watching.done()

    async def start(self) -> asyncio.Task[None]:
        """Begins to work; the task that ends when that does, and raises nothing that has a name."""
        await self._named(self.daemon.start())
        self._watching = asyncio.create_task(self._watch())
        return self._watching

    async def lend(self, memory_bytes: int, disk_bytes: int) -> None:
        """Lends it other amounts from now on."""
        await self._named(self.daemon.lend(memory_bytes, disk_bytes))

    async def stop(self) -> None:
        """Ends it; stopping twice is harmless."""
        if self._watching is not None and not self._watching.done():
            await ended(self._watching)
        await self._named(self.daemon.stop())

    async def _watch(self) -> None:
        try:
            await self.daemon.wait()
        except FolkmootError as error:
            self.error = error

    async def _named(self, work: Coroutine[Any, Any, T]) -> T:
        """Does it in a task of its own, in which, and in whose tasks, the log has the coordinator's name."""

        async def named() -> T:
            working_for.set(self.joined.name)
            return await work

        return await asyncio.create_task(named())
