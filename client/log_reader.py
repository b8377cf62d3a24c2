"""Reads what a public log serves over HTTP.

Guarantees: never more than the caller's cap is taken of an answer, nor longer waited for one than `ANSWER_TIMEOUT_S`;
redirects are not followed; nothing is believed here, and nothing retried.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

import httpx

from .api import CONNECT_TIMEOUT_S, LOOPBACK, resolve_url
from .errors import OTHER_API, ProtocolError, UnreachableError

ANSWER_TIMEOUT_S: Final = 60.0
SILENCE_TIMEOUT_S: Final = 20.0
LOG_PREFIX: Final = "/log"


class LogReader:
    """One log, below `/log` of a coordinator's API."""

    def __init__(self, url: str | None = None) -> None:
        """Raises UrlError when `url` is none; the default is the client's."""
        self.url = str(resolve_url((url or "").rstrip("/").removesuffix(LOG_PREFIX) or None)) + LOG_PREFIX
        host = httpx.URL(self.url).host
        self._http = httpx.Client(
            timeout=httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=host not in LOOPBACK,
            headers={"Accept-Encoding": "identity"},
        )

    def read(self, path: str, cap: int) -> bytes | None:
        """What is served at a path below the log's prefix; None when there is nothing.

        Raises:
            UnreachableError: when nobody answers in time.
            ProtocolError: when the answer is an error, or longer than `cap` bytes.
        """
        try:
            with self._http.stream("GET", f"{self.url}/{path}") as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                if response.status_code != httpx.codes.OK:
                    raise ProtocolError(
                        f"{self.url}/{path} answered {response.status_code}", advice=OTHER_API
                    )
                return self._content(response, path, cap)
        except httpx.TransportError as error:
            raise self._unreachable(type(error).__name__) from error

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _content(self, response: httpx.Response, path: str, cap: int) -> bytes:
        content, until_s = bytearray(), time.monotonic() + ANSWER_TIMEOUT_S
        for part in response.iter_raw():
            content += part
            if len(content) > cap:
                raise ProtocolError(
                    f"{self.url}/{path} answered with more than {cap} bytes", advice=OTHER_API
                )
            if time.monotonic() > until_s:
                raise self._unreachable(f"an answer took longer than {ANSWER_TIMEOUT_S:.0f} s")
        return bytes(content)

    def _unreachable(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"no log can be read at {self.url} ({why})", advice="check the address, and try again later"
        )
