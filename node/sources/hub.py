"""A model hub as a source: the hosted experts' bytes alone, by HTTP range requests on published files at a pinned revision.

Guarantees: no byte is asked for that is not wanted, and ranges that touch are one request; an answer counts only when it
says that it is exactly the range that was asked for, of a file of the size that the manifest gives, and is not encoded; nothing
of any other answer is read. A token goes to the hub's own address and nowhere else; no cookie, proxy or password of this
machine's is used. Where a hub may lead to, `hub_address` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from ... import __version__
from ...ids import ExpertKey
from ...models.manifest import Manifest
from ..remote import readable
from .file_ranges import FileRequest, Splitter, joined, parts_of
from .hub_address import Door, HubAddressError, door_to, hub_url, next_url, origin
from .weight_source import (
    Piece,
    SourceBusyError,
    SourceError,
    SourceLostError,
    SourceSilentError,
    SourceUnfitError,
    Want,
)

MAX_REDIRECTS = 5
MAX_REQUEST_BYTES = 64 << 20
FIRST_WAIT_S = 5.0
"""How long a hub is left alone that is busy and does not say for how long."""
LONGEST_WAIT_S = 3600.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 503})


class ModelHub:
    """A hub at one address.

    Args:
        address: Its URL, below which repositories lie.
        token: Proves who asks, where a repository is not open to all; empty for none.
        trusted_hosts: Hosts that it may lead to though they are not public.
        stall_s: How long it may bring nothing.
        connect_s: How long it may take to be reached.

    Raises:
        HubAddressError: when the address is none, or a token would go there unencrypted.
    """

    remote = True
    joins = True
    last_resort = False

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        trusted_hosts: Collection[str] = (),
        stall_s: float = 30.0,
        connect_s: float = 10.0,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._base = hub_url(address)
        self.name = f"the model hub {self._base.host}"
        if token and self._base.scheme != "https" and not _is_this_machine(self._base.host):
            raise HubAddressError(
                f"a token would cross the network in the open to {self._base.host}",
                advice="give the hub's https address",
            )
        self._token = token
        self._trusted_hosts = frozenset(trusted_hosts)
        self._timeout = httpx.Timeout(stall_s, connect=connect_s)
        self._unix_time = unix_time
        self._certificates: ssl.SSLContext | None = None
        self._clients: dict[tuple[str, str, int], httpx.AsyncClient] = {}
        self._led_to: dict[str, httpx.URL] = {}
        """Where each path was found behind redirects, as long as that works."""

    def offers(self, manifest: Manifest, key: ExpertKey) -> bool:
        """Whether the manifest says where its files are published."""
        return manifest.published is not None

    async def close(self) -> None:
        """Ends all connections; closing twice is harmless."""
        while self._clients:
            _, client = self._clients.popitem()
            await client.aclose()

    async def fetch(self, manifest: Manifest, wants: Sequence[Want]) -> AsyncGenerator[Piece, None]:
        """What is wanted, in the order of the files."""
        parts = [part for want in wants for part in parts_of(want, manifest.experts[want.key].ranges)]
        for request in joined(parts, MAX_REQUEST_BYTES):
            splitter = Splitter(request)
            async with self._opened(manifest, request) as answer:
                try:
                    async for data in answer.aiter_raw():
                        for piece in splitter.split(data):
                            yield piece
                except ValueError as error:
                    raise SourceError(f"{self.name} sent too much: {error}") from error
                except httpx.TransportError as error:
                    raise self._lost(error) from error
            if splitter.left:
                raise SourceLostError(f"{self.name} ended {splitter.left} bytes early")

    @asynccontextmanager
    async def _opened(self, manifest: Manifest, request: FileRequest) -> AsyncIterator[httpx.Response]:
        """The answer to one request, known to be the range that was asked for."""
        if manifest.published is None:
            raise SourceUnfitError("the manifest does not say where the model is published")
        file = manifest.files[request.file]
        path = manifest.published.path(file.name)
        url = self._led_to.pop(path, None) or self._base.join(path)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(url, request)
            try:
                if answer.status_code in _REDIRECTS and "location" in answer.headers:
                    url = next_url(url, answer.headers["location"])
                    continue
                if answer.status_code not in (200, 206, *_BUSY) and origin(url) != origin(self._base):
                    # What a hub leads to is good for a while only: the hub is asked again.
                    raise SourceLostError(
                        f"{self.name} led to {url.host}, which answers {answer.status_code}"
                    )
                self._check(answer, request, file.size, file.name)
                self._led_to[path] = url
                yield answer
                return
            finally:
                await answer.aclose()
        raise SourceUnfitError("it sends nodes in a circle")

    async def _ask(self, url: httpx.URL, request: FileRequest) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout.connect):
                door = await door_to(url, self._base, self._trusted_hosts)
        except TimeoutError:
            raise SourceLostError(f"the name {url.host} is not found in time") from None
        headers = {
            "Range": f"bytes={request.offset}-{request.offset + request.length - 1}",
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            "User-Agent": f"folkmoot/{__version__}",
        }
        if self._token and origin(url) == origin(self._base):
            headers["Authorization"] = f"Bearer {self._token}"
        extensions: dict[str, str] = {}
        connect_to = url
        if door.address is not None:
            headers["Host"] = url.netloc.decode("ascii")
            extensions["sni_hostname"] = url.host
            connect_to = url.copy_with(host=door.address)
        client = await self._client(door)
        asked = client.build_request("GET", connect_to, headers=headers, extensions=extensions)
        try:
            return await client.send(asked, stream=True, follow_redirects=False)
        except httpx.TransportError as error:
            raise self._lost(error) from error

    async def _client(self, door: Door) -> httpx.AsyncClient:
        """One client for each host, so that no connection is shared between two names of one address."""
        whom = origin(door.url)
        if whom not in self._clients:
            if self._certificates is None:
                self._certificates = await asyncio.to_thread(httpx.create_ssl_context)
            no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
            client = httpx.AsyncClient(
                timeout=self._timeout, trust_env=False, verify=self._certificates, cookies=no_cookies
            )
            self._clients.setdefault(whom, client)
        return self._clients[whom]

    def _check(self, answer: httpx.Response, request: FileRequest, size: int, file: str) -> None:
        """Raises unless the answer is the range that was asked for."""
        status = answer.status_code
        if status in _BUSY:
            raise SourceBusyError(f"{self.name} is busy ({status})", self._wait_s(answer))
        if status == 200:
            raise SourceUnfitError("it sends whole files where parts are asked for")
        if status >= 500:
            raise SourceLostError(f"{self.name} answers {status}")
        if status != 206:
            raise SourceUnfitError(f"it answers {status} for {readable(file)}")
        said = answer.headers.get("content-range", "")
        wanted = f"bytes {request.offset}-{request.offset + request.length - 1}/"
        if said not in (f"{wanted}{size}", f"{wanted}*"):
            part = readable(said)[:80] or "an unknown part"
            raise SourceUnfitError(f"it sends {part} of {readable(file)} for {wanted}{size}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise SourceUnfitError("it sends files in an encoding that was not asked for")

    def _wait_s(self, answer: httpx.Response) -> float:
        """For how long it asks to be left alone: seconds, or a date."""
        said = answer.headers.get("retry-after", "").strip()
        wait_s = FIRST_WAIT_S
        if said.isascii() and said.isdigit():
            wait_s = float(said[:9])
        else:
            with contextlib.suppress(ValueError, OverflowError, TypeError):
                wait_s = parsedate_to_datetime(said).timestamp() - self._unix_time()
        return min(max(wait_s, 0.0), LONGEST_WAIT_S)

    def _lost(self, error: httpx.TransportError) -> SourceLostError:
        if isinstance(error, httpx.TimeoutException):
            return SourceSilentError(f"{self.name} says nothing")
        return SourceLostError(f"{self.name}: {str(error) or 'the connection ended'}")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
