"""Who is getting which expert right now, so that no two links of one node write one file.

Guarantees: a digest has at most one holder; whoever wants several takes them in one order, so nobody waits for ever. Used from
one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager


class Claims:
    """Of one store."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._wanted: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, digests: Collection[str]) -> AsyncIterator[None]:
        """While these experts are got; begins once nobody else gets any of them."""
        async with AsyncExitStack() as held:
            for digest in sorted(set(digests)):
                lock = self._locks.setdefault(digest, asyncio.Lock())
                self._wanted[digest] = self._wanted.get(digest, 0) + 1
                held.callback(self._let_go, digest)
                await held.enter_async_context(lock)
            yield

    def _let_go(self, digest: str) -> None:
        self._wanted[digest] -= 1
        if not self._wanted[digest]:
            del self._wanted[digest], self._locks[digest]
