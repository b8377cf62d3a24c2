"""From the bytes of a request's body to what a route is given.

Guarantees: a body is weighed before it is parsed, so that none takes more than a fraction of a second however it is made;
long ones are parsed outside the event loop, which nodes' links share; what is wrong with one is told as everywhere else in
the API.

Parsers keep the interpreter to themselves until they are done, in whatever thread. What they cost is a matter of how many
strings, lists and objects a body has, not of its length: eight megabytes of one text take 10 ms, of empty lists 8 s.
"""

from __future__ import annotations

import asyncio
import email.message
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .errors import RequestError

LONG_BODY_BYTES: Final = 64 << 10
"""Longer ones are parsed in a thread."""
MAX_NESTED: Final = 1 << 14
"""Lists and objects of one body; a message is one, and each of its parts."""
MAX_STRINGS: Final = 1 << 16
"""Strings of one body, names of fields among them."""
MAX_VALUES: Final = 1 << 20
"""Values of one body: a prompt's token ids are cheap."""

Body = TypeVar("Body", bound=BaseModel)


def body_of(kind: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency of a route: the request's body, parsed and checked."""

    async def read(request: Request) -> Body:
        try:
            data = await request.body()
        except ClientDisconnect:
            raise HTTPException(400) from None
        if not data or not _says_json(request):
            raise RequestValidationError([{"type": "missing", "loc": ("body",), "msg": "no JSON"}])
        if len(data) <= LONG_BODY_BYTES:
            return parse(data, kind)
        return await asyncio.to_thread(parse, data, kind)

    return read


def parse(data: bytes, kind: type[Body]) -> Body:
    """What a body says.

    Raises:
        RequestError: when it has too many parts.
        RequestValidationError: when it is no JSON, or not what is asked for.
        HTTPException: when it is no UTF-8, or cannot be parsed for another reason.
    """
    try:
        text = data.decode("utf-8-sig")
        _weigh(data)
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = ("body", error.pos)
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": place, "msg": "no JSON", "ctx": {"error": error.msg}}]
        ) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400) from error
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError(
            [_placed(one) for one in error.errors(include_url=False, include_input=False)]
        ) from error


def _weigh(data: bytes) -> None:
    """Counts what parsing would have to make, in a few passes over the bytes; UTF-8 is known.

    Raises:
        RequestError: when there is too much of anything.
    """
    # Without escaped quotes, every second part between quotes is a string: backslashes go first, in pairs.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > MAX_STRINGS:
        raise _too_much("strings", strings, MAX_STRINGS)
    outside = b"".join(plain.split(b'"')[::2])
    nested = outside.count(b"[") + outside.count(b"{")
    if nested > MAX_NESTED:
        raise _too_much("lists and objects", nested, MAX_NESTED)
    values = outside.count(b",")
    if values > MAX_VALUES:
        raise _too_much("values", values, MAX_VALUES)


def _too_much(what: str, count: int, most: int) -> RequestError:
    return RequestError(
        f"the body has {count} {what}, and this server takes at most {most}",
        advice="send less, or long text in few pieces",
        code="body_too_large",
        status=413,
    )


def _placed(error: Any) -> dict[str, Any]:
    """One of pydantic's errors, with the place that FastAPI would give it."""
    return {**error, "loc": ("body", *error["loc"])}


def _says_json(request: Request) -> bool:
    """Whether the request says that its body is JSON."""
    header = email.message.Message()
    header["content-type"] = request.headers.get("content-type", "")
    kind = header.get_content_subtype()
    return header.get_content_maintype() == "application" and (kind == "json" or kind.endswith("+json"))
