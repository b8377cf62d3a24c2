"""The HTTP server, on an event loop that is somebody else's.

Guarantees: the port is taken, or found taken, before anything slow begins, and who connects meanwhile waits and is served;
no signal handler is installed; `stop` lets open streams end for a moment and then ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from .listening import API_DOOR

GRACE_S = 2


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


class HttpServer:
    """One listening socket, and what serves it."""

    def __init__(self, host: str, port: int) -> None:
        """Listens.

        Raises:
            PortInUseError: when another program has the port.
            ListenAddressError: when the address is not one to listen on.
        """
        self._socket = API_DOOR.open(host, port)
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
