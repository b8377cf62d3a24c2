"""What can be asked of a running node through its control socket.

Guarantees: what a request has is checked before it is used; answers are what JSON can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .control_server import BadRequestError, Handler
from .wishes import DrainEnd

if TYPE_CHECKING:
    from .process import NodeProcess


def verbs(process: NodeProcess) -> Mapping[str, Handler]:
    """By name."""

    async def status(_: Mapping[str, Any]) -> dict[str, Any]:
        return (await process.status()).document()

    async def pause(request: Mapping[str, Any]) -> None:
        process.pause(_text(request, "reason", ""))

    async def resume(_: Mapping[str, Any]) -> None:
        process.resume()

    async def drain(request: Mapping[str, Any]) -> dict[str, str]:
        ends = await process.drain(at_once=request.get("at_once") is True)
        if request.get("stay") is not True and DrainEnd.TAKEN_BACK not in ends.values():
            process.end()
        return ends

    async def join(request: Mapping[str, Any]) -> str:
        name = _text(request, "name", "")
        return (await process.join(_text(request, "invite"), name or None)).name

    async def leave(request: Mapping[str, Any]) -> str:
        return (await process.leave(_text(request, "name"), drain=request.get("drain") is True)).name

    return {"status": status, "pause": pause, "resume": resume, "drain": drain, "join": join, "leave": leave}


def _text(request: Mapping[str, Any], field: str, default: str | None = None) -> str:
    value = request.get(field)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise BadRequestError(
            f"the request lacks a text {field!r}", advice="run the same version as the node"
        )
    return value
