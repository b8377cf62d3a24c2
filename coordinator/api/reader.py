"""Reads a generation on behalf of one HTTP client.

Guarantees: however the reading ends (the answer's end, an error, the client's leaving, the server's stop), `close` leaves
no task behind and cancels a generation that has not come to its end; waiting never loses a delta.
"""

from __future__ import annotations

import asyncio
from enum import Enum

from starlette.requests import Request

from ...errors import FolkmootError
from ..engine.generation import Generation
from ..engine.requests import Delta


class ClientGoneError(Exception):
    """The client hung up: nobody is left to answer, so this never becomes a response."""


class EarlyEndError(FolkmootError):
    """A generation ended without saying how it finished: the engine stopped under it."""

    def __init__(self) -> None:
        super().__init__("the answer broke off", advice="ask again")


class Silence(Enum):
    """What `read` returns instead of a delta."""

    WAITING = "nothing came within the time given"
    ENDED = "the answer is complete"


async def _gone(request: Request) -> None:
    """Returns when the client hangs up; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class DeltaReader:
    """The deltas of one generation, for one client that may leave at any moment."""

    def __init__(self, generation: Generation, request: Request) -> None:
        self.generation = generation
        self._deltas = aiter(generation)
        self._pending: asyncio.Task[Delta | Silence] | None = None
        self._departure = asyncio.create_task(_gone(request))

    async def _next(self) -> Delta | Silence:
        try:
            return await anext(self._deltas)
        except StopAsyncIteration:
            return Silence.ENDED

    async def read(self, timeout_s: float | None = None) -> Delta | Silence:
        """Waits for the next delta.

        Raises:
            ClientGoneError: when the client has hung up.
            FolkmootError: when the generation failed.
        """
        if self._pending is None:
            self._pending = asyncio.create_task(self._next())
        await asyncio.wait(
            {self._pending, self._departure}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if self._pending.done():
            pending, self._pending = self._pending, None
            return pending.result()
        if self._departure.done():
            raise ClientGoneError
        return Silence.WAITING

    async def close(self) -> None:
        """Ends the reading, and the generation with it. May be called again."""
        self.generation.cancel()
        tasks = [task for task in (self._pending, self._departure) if task is not None]
        self._pending = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._deltas.aclose()
