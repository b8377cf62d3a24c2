"""What can go wrong between a client and a network's API.

Guarantees: each error says what to do next; an error that the server explained keeps the server's words.
"""

from __future__ import annotations

from ..errors import FolkmootError, UnavailableError, UsageError, WireError

OTHER_API = "check that the URL is a Folkmoot coordinator's API"


class UnreachableError(UnavailableError):
    """Nobody answers at the URL."""


class NotServedError(UnavailableError):
    """The network is up but cannot serve the request now.

    Attributes:
        retry_after_s: When the server thinks that asking again makes sense.
    """

    def __init__(self, message: str, *, advice: str = "", retry_after_s: int | None = None) -> None:
        super().__init__(message, advice=advice)
        self.retry_after_s = retry_after_s


class RefusedError(UsageError):
    """The server refuses the request as it stands.

    Attributes:
        param: The parameter at fault, if the server named one.
    """

    def __init__(self, message: str, *, advice: str = "", param: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.param = param


class ServerFaultError(FolkmootError):
    """The server failed."""


class ProtocolError(WireError):
    """What answers at the URL is not a Folkmoot or OpenAI-like API."""


def error_of(status: int | None, document: object, retry_after: str | None = None) -> FolkmootError:
    """Turns an error document, and the HTTP status if there is one, into the error to raise."""
    detail = document.get("error") if isinstance(document, dict) else None
    if not isinstance(detail, dict) or not isinstance(detail.get("message"), str):
        return ProtocolError(
            f"the server answered {status or 'with an error'} in a form that is not OpenAI's",
            advice=OTHER_API,
        )
    message = detail["message"]
    if status == 503 or detail.get("type") == "service_unavailable":
        seconds = int(retry_after) if retry_after and retry_after.isdecimal() else None
        advice = f"ask again in {seconds} s" if seconds else "ask again in a moment"
        return NotServedError(message, advice=advice, retry_after_s=seconds)
    if (status is not None and 400 <= status < 500) or detail.get("type") == "invalid_request_error":
        return RefusedError(message, param=detail.get("param"))
    return ServerFaultError(message)
