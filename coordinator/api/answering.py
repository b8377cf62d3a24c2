"""From a checked request to its response.

Guarantees: nothing is answered before the first token is there (or a stream's patience is over), so a failure until then
has its own status; a client that hangs up cancels its generation, streamed or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..engine.delivery import STREAMED, Delivery, Verification
from ..engine.generation import Generation
from ..engine.requests import Delta, SamplingParams
from .reader import ClientGoneError, DeltaReader, EarlyEndError, Silence
from .settings import ApiSettings
from .shapes import Shape
from .streaming import EventStream, events

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up; it reaches the access log only."""


class TextEngine(Protocol):
    """The part of the engine that the API calls."""

    def submit(
        self, prompt_ids: Sequence[int], sampling: SamplingParams, delivery: Delivery = STREAMED
    ) -> Generation:
        """Queues a prompt; raises a FolkmootError when it cannot be taken."""
        ...


class Answering:
    """Submits prompts and turns generations into responses."""

    def __init__(self, engine: TextEngine, settings: ApiSettings) -> None:
        self._engine = engine
        self._settings = settings

    async def answer(
        self,
        request: Request,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        shape: Shape,
        *,
        stream: bool,
        verification: Verification = Verification.SIGNED,
    ) -> Response:
        """Submits the prompt and answers with a document or a stream of events.

        Raises:
            FolkmootError: when the engine does not take the prompt, or fails before the response has begun.
        """
        # What is not streamed has been given to nobody before its end, and can be computed anew until then.
        generation = self._engine.submit(prompt_ids, sampling, Delivery(verification, whole=not stream))
        shape.identify(generation)
        reader = DeltaReader(generation, request)
        handed_over = False
        try:
            if stream:
                first = await reader.read(self._settings.first_token_wait_s)
                if first is Silence.ENDED:
                    raise EarlyEndError
                handed_over = True
                return EventStream(reader, events(reader, shape, first, self._settings.keep_alive_s))
            return JSONResponse(shape.whole(generation, await self._all(reader)))
        except ClientGoneError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        finally:
            if not handed_over:
                await reader.close()

    async def _all(self, reader: DeltaReader) -> list[Delta]:
        deltas: list[Delta] = []
        while True:
            delta = await reader.read()
            if not isinstance(delta, Delta):
                raise EarlyEndError
            deltas.append(delta)
            if delta.finish_reason is not None:
                return deltas
