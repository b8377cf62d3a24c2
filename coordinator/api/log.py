"""The public log over HTTP, as https://c2sp.org/tlog-tiles has it, below `/log/`.

Guarantees: reading changes nothing and never holds up the event loop; only what the newest checkpoint covers is served. A
full tile or bundle never changes, and caches are told so; a checkpoint is never cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import Response

from ...trust.log_tiles import CHECKPOINT_PATH
from .errors import RequestError

UNCHANGING = "public, max-age=31536000, immutable"
OUTGROWN = "public, max-age=3600"
"""What is said of a partial tile: what is in it stays, but sooner or later everybody asks for a wider one."""


class LogRoutes:
    """What one coordinator serves of its log."""

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        """`read` gives what the log has at a path below its prefix, from any thread."""
        self._read = read

    def router(self) -> APIRouter:
        """The routes, to be included in an application."""
        router = APIRouter()
        router.add_api_route("/log/checkpoint", self.checkpoint, methods=["GET"])
        router.add_api_route("/log/tile/{path:path}", self.tile, methods=["GET"])
        return router

    async def checkpoint(self) -> Response:
        """The newest signed checkpoint."""
        note = await self._found(CHECKPOINT_PATH)
        return Response(note, media_type="text/plain", headers={"Cache-Control": "no-store"})

    async def tile(self, path: str) -> Response:
        """A tile of hashes, or a bundle of entries."""
        data = await self._found(f"tile/{path}")
        cache = OUTGROWN if ".p/" in path else UNCHANGING
        return Response(data, media_type="application/octet-stream", headers={"Cache-Control": cache})

    async def _found(self, path: str) -> bytes:
        data = await asyncio.to_thread(self._read, path)
        if data is None:
            raise RequestError(f"the log has no {path[:200]!r}", code="not_in_log", status=404)
        return data
