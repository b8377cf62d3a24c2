"""A real HTTP server that has files and speaks Range, and does wrong what a test tells it to do.

Guarantees: it listens on loopback, a thread a connection, and has ended when the context is left; what was asked and how many
bytes of files were sent is on record, whatever went wrong. Faults strike requests for parts of files, and nothing else.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from folkmoot.trust.tls import TlsIdentity

PIECE_BYTES = 1024


class Fault(Enum):
    """What goes wrong."""

    DROPS = auto()
    """The connection ends after `Script.drop_after` bytes."""
    WRONG_BYTES = auto()
    SILENT = auto()
    """The connection is taken, and nothing comes."""
    SILENT_MIDWAY = auto()
    """Nothing more comes after `Script.drop_after` bytes."""
    SLOW = auto()
    """A piece comes each `Script.slow_s`."""
    IGNORES_RANGE = auto()
    """200, with everything."""
    WRONG_RANGE = auto()
    """206, of a part that begins one byte later."""
    NO_RANGE_SAID = auto()
    """206, without a word on which part."""
    NOT_FOUND = auto()
    FORBIDDEN = auto()
    BUSY = auto()
    """429, with Retry-After: `Script.retry_after`."""
    BROKEN = auto()
    """500."""
    TRUNCATED = auto()
    """The file ends half way."""
    TOO_MUCH = auto()
    """More bytes than were announced, as far as HTTP lets them through."""
    ENCODED = auto()
    """The part is said to be packed."""
    REDIRECTS = auto()
    """302 to `Script.leads_to`, with the path appended."""
    CIRCLES = auto()
    """302 to the same address."""


@dataclass(frozen=True)
class Asked:
    """One request for a part of a file: the bytes, both ends included."""

    path: str
    first: int
    last: int
    headers: Mapping[str, str]

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.last - self.first + 1


@dataclass
class Script:
    """What the server does otherwise than it should.

    Attributes:
        fault: None to do everything right.
        draw: Chooses for each request what goes wrong, instead of `fault`.
        times: How many more requests it strikes; None for all.
        drop_after: After how many bytes of an answer a connection ends or falls silent.
        slow_s: The time between two pieces.
        retry_after: What a busy server says.
        leads_to: Where redirects go.
        before_piece: Called before each piece, with how many bytes of files were sent so far.
    """

    fault: Fault | None = None
    draw: Callable[[], Fault | None] | None = None
    times: int | None = None
    drop_after: int = 0
    slow_s: float = 0.2
    retry_after: str = "1"
    leads_to: str = ""
    before_piece: Callable[[int], None] | None = None


@dataclass
class RangeServer:
    """The server's files, its script, and what it saw."""

    files: dict[str, bytes]
    script: Script
    address: str = ""
    asked: list[Asked] = field(default_factory=list)
    bytes_sent: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strikes(self) -> Fault | None:
        """What goes wrong with the next request."""
        with self.lock:
            if self.script.draw is not None:
                return self.script.draw()
            if self.script.fault is None or self.script.times == 0:
                return None
            if self.script.times is not None:
                self.script.times -= 1
            return self.script.fault

    @property
    def bytes_asked(self) -> int:
        """Of all requests together."""
        return sum(request.length for request in self.asked)


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True

    def __init__(self, state: RangeServer, certificate: TlsIdentity | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        if certificate is not None:
            with TemporaryDirectory() as folder:
                chain = Path(folder) / "chain.pem"
                chain.write_bytes(certificate.key_pem + certificate.certificate_pem)
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(chain)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        state = cast(_Server, self.server).state
        data = state.files.get(self.path.lstrip("/"))
        part = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        if part is None:
            self._empty(400)
            return
        first, last = int(part[1]), int(part[2])
        with state.lock:
            state.asked.append(Asked(self.path, first, last, dict(self.headers.items())))
        fault, script = state.strikes(), state.script
        match fault:
            case Fault.NOT_FOUND:
                self._empty(404)
                return
            case Fault.FORBIDDEN:
                self._empty(403)
                return
            case Fault.BROKEN:
                self._empty(500)
                return
            case Fault.BUSY:
                self._empty(429, {"Retry-After": script.retry_after})
                return
            case Fault.REDIRECTS:
                self._empty(302, {"Location": script.leads_to + self.path})
                return
            case Fault.CIRCLES:
                self._empty(302, {"Location": self.path})
                return
            case Fault.SILENT:
                state.stopping.wait(60)
                self.close_connection = True
                return
        if data is None:
            self._empty(404)
            return
        self._send(state, data, first, last, fault)

    def _send(self, state: RangeServer, data: bytes, first: int, last: int, fault: Fault | None) -> None:
        whole = data
        if fault is Fault.TRUNCATED:
            data = data[: len(data) // 2]
        body = data[first : last + 1]
        if not body:
            self._empty(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        shift = fault is Fault.WRONG_RANGE
        headers = {
            "Content-Range": f"bytes {first + shift}-{first + shift + len(body) - 1}/{len(data)}",
            "Content-Length": str(len(body)),
        }
        status = 206
        if fault is Fault.IGNORES_RANGE:
            status, body, headers = 200, whole, {"Content-Length": str(len(whole))}
        elif fault is Fault.NO_RANGE_SAID:
            del headers["Content-Range"]
        elif fault is Fault.ENCODED:
            headers["Content-Encoding"] = "gzip"
        elif fault is Fault.WRONG_BYTES:
            body = bytes(byte ^ 1 for byte in body)
        elif fault is Fault.TOO_MUCH:
            body += b"more" * 8
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        script, sent, drop_after = state.script, 0, state.script.drop_after
        for start in range(0, len(body), PIECE_BYTES):
            if fault in (Fault.DROPS, Fault.SILENT_MIDWAY) and sent >= drop_after:
                if fault is Fault.SILENT_MIDWAY:
                    state.stopping.wait(60)
                self.close_connection = True
                return
            if fault is Fault.SLOW and state.stopping.wait(script.slow_s):
                return
            if script.before_piece is not None:
                script.before_piece(state.bytes_sent)
            piece = body[start : start + PIECE_BYTES]
            if fault is Fault.DROPS:
                piece = piece[: drop_after - sent]
            self.wfile.write(piece)
            self.wfile.flush()
            sent += len(piece)
            with state.lock:
                state.bytes_sent += len(piece)
        if sent < len(body):
            self.close_connection = True

    def _empty(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def range_server(
    files: Mapping[str, bytes], script: Script | None = None, certificate: TlsIdentity | None = None
) -> Iterator[RangeServer]:
    """Serves these files, by their paths without the first slash, while the context lasts; over TLS, with a certificate."""
    state = RangeServer(dict(files), script or Script())
    server = _Server(state, certificate)
    state.address = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="range-server"
    )
    thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
