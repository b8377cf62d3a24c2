"""How an error looks to an HTTP client.

Guarantees: whatever goes wrong on whatever route, the body is `{"error": {"message", "type", "param", "code"}}` and holds
no trace; the caller's own mistakes are 4xx and name the parameter; what may work later is 503 with `Retry-After`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from ...errors import CapacityError, FolkmootError, UnavailableError, UsageError

log = logging.getLogger(__name__)

OBJECTS = ("folkmoot", "stream_options")
"""Fields whose own fields are named in errors."""
RETRY_AFTER_S = 5
"""What `Retry-After` says when the error itself does not know better."""


class RequestError(UsageError):
    """A request that this API does not serve: which parameter, and why.

    Args:
        param: The parameter at fault, as OpenAI spells it.
        code: A word that programs can act on.
        status: The HTTP status.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
    ) -> None:
        super().__init__(message, advice=advice)
        self.param = param
        self.code = code
        self.status = status


@dataclass(frozen=True)
class ErrorReply:
    """An error as it goes over HTTP."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole HTTP response."""
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def reply_to(error: FolkmootError) -> ErrorReply:
    """Chooses status, type and code for an error that we raised on purpose."""
    if isinstance(error, RequestError):
        kind = "not_found_error" if error.status == 404 else "invalid_request_error"
        return ErrorReply(error.status, str(error), kind, error.param, error.code)
    if isinstance(error, UsageError):
        param, code = getattr(error, "param", None), getattr(error, "code", None)
        return ErrorReply(400, str(error), "invalid_request_error", param, code)
    if isinstance(error, UnavailableError | CapacityError):
        wait_s = math.ceil(getattr(error, "retry_after_s", RETRY_AFTER_S))
        code = getattr(error, "code", "unavailable")
        return ErrorReply(
            503, str(error), "service_unavailable", None, code, headers={"Retry-After": str(max(1, wait_s))}
        )
    log.error("a request failed: %s", error)
    return ErrorReply(500, str(error), "server_error", None, "internal_error")


def reply_to_fault(error: Exception) -> ErrorReply:
    """What a client learns of an error that nobody foresaw; the log has the trace."""
    if isinstance(error, FolkmootError):
        return reply_to(error)
    log.error("a request failed unexpectedly", exc_info=error)
    message = f"the server failed unexpectedly ({type(error).__name__}): the coordinator's log has the trace"
    return ErrorReply(500, message, "server_error", None, "internal_error")


def too_large() -> ErrorReply:
    """A body over the cap."""
    message = "the body is larger than this server takes"
    return ErrorReply(413, message, "invalid_request_error", None, "body_too_large")


def _field_path(location: tuple[int | str, ...]) -> str | None:
    """`("body", "messages", 0, "content", "str")` -> `messages[0].content`: names of union members are left out."""
    parts = [part for part in location if part != "body"]
    if not parts or not isinstance(parts[0], str):
        return None
    path, after_index = parts[0], False
    for part in parts[1:]:
        if isinstance(part, int):
            path, after_index = f"{path}[{part}]", True
        elif after_index or path in OBJECTS:
            path, after_index = f"{path}.{part}", False
        else:
            break
    return path


def reply_to_validation(error: RequestValidationError) -> ErrorReply:
    """A body that is not JSON, or whose fields have the wrong type or range."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        message = f"the body is not valid JSON ({reason} at character {first['loc'][-1]})"
        return ErrorReply(400, message, "invalid_request_error", None, "invalid_json")
    param = _field_path(first["loc"])
    if param is None:
        message = "the body must be a JSON object, sent with the header Content-Type: application/json"
        return ErrorReply(400, message, "invalid_request_error", None, "invalid_body")
    if first["type"] == "missing":
        return ErrorReply(400, f"{param} is missing", "invalid_request_error", param, "missing_parameter")
    return ErrorReply(400, f"{param}: {first['msg']}", "invalid_request_error", param, "invalid_value")


def install(app: FastAPI) -> None:
    """Makes every route of the app, those that do not exist included, answer errors in the one shape."""

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply_to_validation(error).response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind, message = "invalid_request_error", str(error.detail)
        if error.status_code == 400:
            message = "the body cannot be read: send a JSON object in UTF-8, not nested thousands deep"
            return ErrorReply(400, message, kind, code="invalid_json").response()
        if error.status_code == 404:
            message = f"no such route: {request.method} {request.url.path}: routes begin with /v1/, /log/, /health or /metrics"
        elif error.status_code == 405:
            message = f"{request.url.path} does not answer {request.method}"
        elif error.status_code == 413:
            return too_large().response()
        elif error.status_code >= 500:
            kind = "server_error"
        return ErrorReply(error.status_code, message, kind, headers=dict(error.headers or {})).response()

    async def on_folkmoot(request: Request, error: Exception) -> Response:
        assert isinstance(error, FolkmootError)
        return reply_to(error).response()

    async def on_fault(request: Request, error: Exception) -> Response:
        return reply_to_fault(error).response()

    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(FolkmootError, on_folkmoot)
    app.add_exception_handler(Exception, on_fault)
