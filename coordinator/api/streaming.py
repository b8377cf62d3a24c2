"""An answer as server-sent events.

Guarantees: every event is a `data:` line with one JSON document and an empty line, the last being `data: [DONE]`; an error
in mid-stream is such a document with `error`, and then the stream ends without `[DONE]`; silence is filled with comment
lines; the generation ends with the stream, whichever ends first.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..engine.requests import Delta
from .errors import reply_to_fault
from .reader import ClientGoneError, DeltaReader, EarlyEndError, Silence
from .shapes import Shape

KEEP_ALIVE = b": waiting for the network\n\n"
DONE = b"data: [DONE]\n\n"


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def events(
    reader: DeltaReader, shape: Shape, first: Delta | Silence, keep_alive_s: float
) -> AsyncGenerator[bytes]:
    """The bytes of a stream, from the first delta on."""
    try:
        delta, opening = first, shape.opening()
        while True:
            if isinstance(delta, Delta):
                for document in (*opening, *shape.piece(delta)):
                    yield _event(document)
                if delta.finish_reason is not None:
                    for document in shape.closing(reader.generation, delta.finish_reason):
                        yield _event(document)
                    yield DONE
                    return
                opening = []
            elif delta is Silence.WAITING:
                yield KEEP_ALIVE
            else:
                raise EarlyEndError
            delta = await reader.read(keep_alive_s)
    except ClientGoneError:
        return
    except Exception as error:  # noqa: BLE001 - the status line is long gone: the client must be told here
        yield _event(reply_to_fault(error).body)


class EventStream(Response):
    """A response that sends events as they come, and closes their reader whatever happens."""

    media_type = "text/event-stream"

    def __init__(self, reader: DeltaReader, source: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._reader = reader
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream as ASGI messages."""
        try:
            async with aclosing(self._source) as source:
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                async for event in source:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._reader.close()
