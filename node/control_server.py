"""The running node's side of its control socket.

Guarantees: the socket lets nobody but its owner in from the moment that it is there; requests are bounded in size, time and
number; a request that makes no sense, or fails, is answered so and ends nothing. A socket that a killed node left behind is
replaced: whoever opens one has the state folder's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import FolkmootError, UsageError
from ..state_lock import StateError
from .control import MAX_REQUEST_BYTES, SOCKET_FILE, socket_path

log = logging.getLogger(__name__)

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Does what a request asks for, and returns what JSON can hold."""

MOST_CONNECTIONS: Final = 32
REQUEST_TIMEOUT_S: Final = 10.0
TURNS_TO_ACCEPT: Final = 5
"""Turns of the event loop from a connection to the task that serves it."""
GOODBYE_S: Final = 1.0
"""How long answers may take to leave when the node ends."""


class BadRequestError(UsageError):
    """A request that this node does not understand."""


class ControlServer:
    """The socket in one state folder.

    Args:
        handlers: What can be asked for.
    """

    def __init__(self, state: Path, handlers: Mapping[str, Handler]) -> None:
        self._state = state
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens.

        Raises:
            StateError: when the folder takes no socket.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            (self._state / SOCKET_FILE).unlink(missing_ok=True)
            with socket_path(self._state) as path:
                listener.bind(path)
            # Nobody can connect before it listens.
            (self._state / SOCKET_FILE).chmod(0o600)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listener, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            listener.close()
            raise StateError(
                f"the state folder {self._state} takes no control socket ({error.strerror or error})",
                advice="name one on a local disk, with a shorter path: --state DIR",
            ) from error

    async def stop(self) -> None:
        """Listens no more; stopping twice is harmless."""
        if self._server is None:
            return
        # Who was let in just now is served first: closing a server in between leaves the connection open (Python 3.11).
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        self._server.close()
        if self._serving:  # whoever asked for the end is told of it
            await asyncio.wait(self._serving, timeout=GOODBYE_S)
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._server = None
        with contextlib.suppress(OSError):
            (self._state / SOCKET_FILE).unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            answer = await self._answer(reader)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except OSError as error:
            log.debug("whoever asked has gone: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._serving.discard(task)

    async def _answer(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            if len(self._serving) > MOST_CONNECTIONS:
                raise BadRequestError("too many ask at once", advice="try again")
            request = await self._request(reader)
            handler = self._handlers.get(str(request.get("verb")))
            if handler is None:
                raise BadRequestError(
                    f"this node cannot {request.get('verb')!r}", advice="run the same version as the node"
                )
            return {"answer": await handler(request)}
        except FolkmootError as error:
            return _error(error.message, error.advice, error.exit_code)
        except Exception as error:
            log.exception("a request through the control socket failed")
            return _error(f"unexpected {type(error).__name__}: {error}", "look at the node's log", 70)

    async def _request(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = json.loads(await reader.readline())
        except (TimeoutError, ValueError):  # too long a line is a ValueError as well
            request = None
        if not isinstance(request, dict):
            raise BadRequestError("the request is not one line of JSON")
        return request


def _error(message: str, advice: str, exit_code: int) -> dict[str, Any]:
    return {"error": {"message": message, "advice": advice, "exit_code": exit_code}}
