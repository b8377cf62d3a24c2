"""The HTTP server, on an event loop that is somebody else's.

Guarantees: the port is taken, or found taken, before anything slow begins, and who connects meanwhile waits and is served;
no signal handler is installed; `stop` lets open streams end for a moment and then ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from ..errors import UnavailableError

GRACE_S = 2
BACKLOG = 512


class ApiPortError(UnavailableError):
    """The HTTP API cannot listen where it was told to."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.began = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells when it is done."""
        await super().startup(sockets=sockets)
        self.began.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs the event loop."""
        yield


def _advice(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program uses it: name another with --api-port, or 0 for any free one"
        case errno.EACCES:
            return "the system keeps it for itself: name one from 1024 on with --api-port"
    return "name an address of this machine with --api-host"


class HttpServer:
    """One listening socket, and what serves it."""

    def __init__(self, host: str, port: int) -> None:
        """Listens.

        Raises:
            ApiPortError: when the address cannot be listened on.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            # The library says once more in brackets what we say before it.
            reason = (error.strerror or "").partition(" (")[0]
            raise ApiPortError(
                f"the API cannot listen on {host} port {port} ({reason})", advice=_advice(error)
            ) from error
        self._host = host
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        port = self._socket.getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self, app: FastAPI) -> None:
        """Serves the application; returns when it answers."""
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = server = _Server(config)
        self._serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        began = asyncio.create_task(server.began.wait())
        await asyncio.wait({began, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            began.cancel()
            await self._serving

    async def stop(self) -> None:
        """Stops serving and gives the port up. Calling it twice is harmless."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
        self._socket.close()

    async def ended(self) -> None:
        """Waits until the server ends, of itself or by `stop`."""
        if self._serving is not None:
            await asyncio.wait({self._serving})
