"""Proven on real servers and sockets: a channel pinned to the fetched certificate reaches its coordinator and nobody else,
and what is wrong with an address is said in words of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread

import grpc
import pytest

from folkmoot.errors import UnavailableError
from folkmoot.protos.folkmoot.v1 import enrolment_pb2, enrolment_pb2_grpc
from folkmoot.protos.limits import channel_options, server_options
from folkmoot.trust.keys import Identity, fingerprint
from folkmoot.trust.tls import (
    TLS_NAME,
    CoordinatorUnreachableError,
    PinError,
    TlsIdentity,
    check_certificate,
    fetch_certificate,
)

HOST = "127.0.0.1"
TIMEOUT_S = 20.0
COORDINATOR = Identity(b"c" * 32)
IMPOSTOR = Identity(b"i" * 32)


class Answer(enrolment_pb2_grpc.EnrolmentServicer):
    """Answers a challenge with the key of whoever serves."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    async def Challenge(
        self,
        request: enrolment_pb2.ChallengeRequest,
        context: grpc.aio.ServicerContext[enrolment_pb2.ChallengeRequest, enrolment_pb2.ChallengeReply],
    ) -> enrolment_pb2.ChallengeReply:
        return enrolment_pb2.ChallengeReply(coordinator_key=self.identity.public)

    async def Enrol(
        self,
        request: enrolment_pb2.EnrolRequest,
        context: grpc.aio.ServicerContext[enrolment_pb2.EnrolRequest, enrolment_pb2.EnrolReply],
    ) -> enrolment_pb2.EnrolReply:
        raise AssertionError("nobody enrols here")


@asynccontextmanager
async def serving(identity: Identity, tls: TlsIdentity) -> AsyncIterator[int]:
    """The port of a server with this TLS identity."""
    server = grpc.aio.server(options=server_options())
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(Answer(identity), server)
    credentials = grpc.ssl_server_credentials([(tls.key_pem, tls.certificate_pem)])
    port = server.add_secure_port(f"{HOST}:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def challenge(port: int, pem: bytes, name: str = TLS_NAME) -> bytes:
    """The key that answers over a channel whose only root is `pem`."""
    credentials = grpc.ssl_channel_credentials(pem)
    async with grpc.aio.secure_channel(
        f"{HOST}:{port}", credentials, options=channel_options(name)
    ) as channel:
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        reply = await stub.Challenge(enrolment_pb2.ChallengeRequest(), timeout=TIMEOUT_S)
        return reply.coordinator_key


async def fetch(port: int) -> bytes:
    return await asyncio.to_thread(fetch_certificate, HOST, port, TIMEOUT_S)


async def test_the_invited_coordinator_is_reached(tmp_path: Path) -> None:
    tls = TlsIdentity.load_or_create(tmp_path, COORDINATOR)
    async with serving(COORDINATOR, tls) as port:
        pem = await fetch(port)
        assert check_certificate(pem, fingerprint(COORDINATOR.public)) == COORDINATOR.public
        assert await challenge(port, pem) == COORDINATOR.public


async def test_an_impostors_certificate_is_refused() -> None:
    async with serving(IMPOSTOR, TlsIdentity.generate(IMPOSTOR)) as port:
        pem = await fetch(port)
        with pytest.raises(PinError):
            check_certificate(pem, fingerprint(COORDINATOR.public))


@pytest.mark.parametrize("identity", [IMPOSTOR, COORDINATOR], ids=["another identity", "another TLS key"])
async def test_a_channel_pinned_to_another_certificate_does_not_connect(identity: Identity) -> None:
    """Somebody who gets in between after the certificate was fetched and found right is still shut out."""
    pinned = TlsIdentity.generate(COORDINATOR)
    async with serving(identity, TlsIdentity.generate(identity)) as port:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await challenge(port, pinned.certificate_pem)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "handshake" in str(caught.value.details()).lower()


async def test_a_pinned_certificate_has_one_name_only() -> None:
    tls = TlsIdentity.generate(COORDINATOR)
    async with serving(COORDINATOR, tls) as port:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await challenge(port, tls.certificate_pem, name="elsewhere.example")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_two_channels_to_one_port_share_no_connection() -> None:
    """A channel with the right pin must not lend its connection to one with a wrong pin."""
    tls = TlsIdentity.generate(COORDINATOR)
    async with serving(COORDINATOR, tls) as port:
        right = grpc.ssl_channel_credentials(tls.certificate_pem)
        target = f"{HOST}:{port}"
        async with grpc.aio.secure_channel(target, right, options=channel_options(TLS_NAME)) as channel:
            stub = enrolment_pb2_grpc.EnrolmentStub(channel)
            await stub.Challenge(enrolment_pb2.ChallengeRequest(), timeout=TIMEOUT_S)
            with pytest.raises(grpc.aio.AioRpcError):
                await challenge(port, TlsIdentity.generate(COORDINATOR).certificate_pem)


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """The port of a server that reads, then sends `answer` and hangs up; with None it never says anything."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                if answer is None:
                    connection.recv(1)
                else:
                    connection.sendall(answer)

        thread = Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=TIMEOUT_S)
            assert not thread.is_alive()


def test_a_port_where_nobody_listens_is_said_to_be_that() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        CoordinatorUnreachableError, match=f"no coordinator answers at {HOST}:{port}"
    ) as caught:
        fetch_certificate(HOST, port, TIMEOUT_S)
    assert isinstance(caught.value, UnavailableError) and caught.value.advice


def test_a_port_that_speaks_no_tls_is_said_to_be_that() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        with pytest.raises(CoordinatorUnreachableError, match="is no coordinator"):
            fetch_certificate(HOST, port, TIMEOUT_S)


def test_a_port_that_hangs_up_is_said_to_be_that() -> None:
    with listening(b"") as port:
        with pytest.raises(CoordinatorUnreachableError):
            fetch_certificate(HOST, port, TIMEOUT_S)


def test_a_port_that_says_nothing_is_left_after_the_timeout() -> None:
    started = time.monotonic()
    with listening(None) as port:
        with pytest.raises(CoordinatorUnreachableError, match=r"within 0\.2 s"):
            fetch_certificate(HOST, port, 0.2)
    assert time.monotonic() - started < TIMEOUT_S


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 255, "a..b"])
def test_a_host_that_does_not_exist_is_said_to_be_that(host: str) -> None:
    with pytest.raises(CoordinatorUnreachableError) as caught:
        fetch_certificate(host, 1, TIMEOUT_S)
    assert caught.value.advice


async def test_what_is_fetched_is_the_servers_certificate() -> None:
    tls = TlsIdentity.generate(COORDINATOR)
    async with serving(COORDINATOR, tls) as port:
        fetched = ssl.PEM_cert_to_DER_cert((await fetch(port)).decode())
    assert fetched == ssl.PEM_cert_to_DER_cert(tls.certificate_pem.decode())
