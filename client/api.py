"""A small synchronous client of a coordinator's HTTP API.

Guarantees: every failure is a FolkmootError with advice; a URL on this machine is reached directly, whatever proxies the
environment names; nothing is retried behind the caller's back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from ..errors import UsageError
from .answer import Answer
from .errors import OTHER_API, ProtocolError, UnreachableError, error_of

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "FOLKMOOT_URL"
CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 120.0
"""A server says something, if only a keep-alive comment, far more often than this."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Message = Mapping[str, str]


class UrlError(UsageError):
    """Something that is not the URL of an API."""


class TextError(UsageError):
    """A text that is not made of characters, as bytes in another encoding than UTF-8 are."""


def resolve_url(url: str | None) -> httpx.URL:
    """The API's base URL: the one given, else `FOLKMOOT_URL`, else the default; a trailing `/v1` is dropped.

    Raises:
        UrlError: when it is not an http or https URL.
    """
    text = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    advice = f"give one like {DEFAULT_URL}"
    try:
        parsed = httpx.URL(text.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise UrlError(f"{text!r} is not a URL ({error})", advice=advice) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UrlError(f"{text!r} is not an http URL", advice=advice)
    return parsed


class FolkmootClient:
    """Talks to one coordinator's API."""

    def __init__(self, url: str | None = None) -> None:
        self.url = resolve_url(url)
        self._http = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=self.url.host not in LOOPBACK,
        )

    def models(self) -> list[str]:
        """The names of the models that are served."""
        document = self._get("/v1/models", "data")
        try:
            return [str(model["id"]) for model in document["data"]]
        except (TypeError, KeyError) as error:
            raise self._another_api("/v1/models") from error

    def health(self) -> dict[str, Any]:
        """The document of `/health`."""
        return self._get("/health")

    def network(self) -> dict[str, Any]:
        """The document of `/v1/network`: nodes, coverage, counters."""
        return self._get("/v1/network", "model", "coverage", "nodes", "counters")

    def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Answer:
        """Continues a conversation; returns when the answer has begun.

        Args:
            messages: Mappings with `role` and `content`.
            model: The model's name; the one that is served, by default.
            max_tokens: The longest answer; as long as the context allows, by default.
            temperature: 0 always takes the likeliest token; the server's default, if not given.
            seed: Makes sampling repeatable.

        Raises:
            TextError: when a message cannot be sent as it is.
            FolkmootError: when nobody answers, or the server refuses.
        """
        wishes = {"max_completion_tokens": max_tokens, "temperature": temperature, "seed": seed}
        body = {
            "model": model or self._only_model(),
            "messages": [dict(message) for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in wishes.items() if value is not None},
        }
        try:
            request = self._http.build_request("POST", "/v1/chat/completions", json=body)
        except UnicodeEncodeError as error:
            raise TextError(
                f"the question holds {error.object[error.start]!r}, which is no character",
                advice="give text in UTF-8",
            ) from error
        return Answer(self._send(request, stream=True))

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _only_model(self) -> str:
        names = self.models()
        if not names:
            raise ProtocolError(f"{self.url} serves no model", advice="name another with --url")
        return names[0]

    def _get(self, path: str, *fields: str) -> dict[str, Any]:
        """A document that has these fields."""
        document = _json(self._send(self._http.build_request("GET", path)))
        if not isinstance(document, dict) or not all(name in document for name in fields):
            raise self._another_api(path)
        return document

    def _another_api(self, path: str) -> ProtocolError:
        return ProtocolError(
            f"{self.url}{path} answered with something else than a Folkmoot network does",
            advice=OTHER_API,
        )

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
            if response.is_success:
                return response
            response.read()
        except httpx.TransportError as error:
            raise UnreachableError(
                f"no Folkmoot network answers at {self.url} ({type(error).__name__})",
                advice=f"start one with `folkmoot demo --serve`, or name another with --url or {URL_VARIABLE}",
            ) from error
        raise error_of(response.status_code, _json(response), response.headers.get("Retry-After"))


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None
