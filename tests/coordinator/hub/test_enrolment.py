"""Enrolment over real gRPC: who has the join secret and the key gets a ticket, and every attack gets its own status."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from folkmoot.coordinator.hub import enrolment
from folkmoot.coordinator.hub.challenges import ChallengeError, ChallengeTable
from folkmoot.coordinator.hub.enrolment import clean_name
from folkmoot.protos.folkmoot.v1 import enrolment_pb2
from folkmoot.protos.folkmoot.v1.enrolment_pb2_grpc import EnrolmentStub
from folkmoot.tests.support.kept_books import books_in, full_disk
from folkmoot.tests.support.running_hub import RunningHub, running_hub
from folkmoot.tests.support.scripted_node import ScriptedNode
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import LogEntry
from folkmoot.trust.tickets import check_ticket, issue_ticket

if TYPE_CHECKING:
    from folkmoot.protos.folkmoot.v1.enrolment_pb2_grpc import EnrolmentAsyncStub

IDENTITY_POINT = b"\x01" + bytes(31)
"""The neutral element: one constant signature fits every message under it."""


class KeptLog:
    """A public log in memory."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def append(self, entry: LogEntry) -> Future[int]:
        self.entries.append(entry)
        done: Future[int] = Future()
        done.set_result(len(self.entries) - 1)
        return done


async def challenge(network: RunningHub, node: ScriptedNode) -> tuple[EnrolmentAsyncStub, bytes, bytes]:
    network.nodes.append(node)
    stub = EnrolmentStub(await node.channel())
    nonce = secrets.token_bytes(32)
    reply = await stub.Challenge(
        enrolment_pb2.ChallengeRequest(node_key=node.identity.public, node_nonce=nonce)
    )
    assert reply.coordinator_key == network.identity.public
    return stub, nonce, reply.coordinator_nonce


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_an_invited_node_gets_a_ticket_in_its_name() -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model, name="  Zo\u00eb's\tbox \u202e\x07 ")
        network.nodes.append(node)
        reply = await node.enrol()
        assert check_ticket(network.identity.public, reply.ticket, node.identity.public, time.time())
        assert network.seen(node).name == "Zo\u00eb's box"
        assert network.seen(node).state == "lost"


async def test_a_wrong_join_secret() -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        request = node.enrol_request(nonce, answer)
        request.invite_proof = bytes(32)
        code, details = await refused(stub.Enrol(request))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert "invite" in details
        assert not network.hub.snapshot().nodes


async def test_one_who_asks_again_while_the_books_are_shut_is_in_the_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = KeptLog()
    with books_in(tmp_path) as books:
        async with running_hub(entry_log=log, contributors=books.contributors) as network:
            node = ScriptedNode(network.hub.invite, network.model)
            network.nodes.append(node)
            with full_disk(monkeypatch):
                for _ in range(3):
                    code, _ = await refused(node.enrol())
                    assert code is grpc.StatusCode.UNAVAILABLE
            async with asyncio.timeout(60):
                while not node.ticket:
                    with suppress(grpc.aio.AioRpcError):
                        await node.enrol()
                    await asyncio.sleep(0.01)
            assert len(log.entries) == 1


async def test_invites_are_looked_through_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    search = enrolment._search

    def seen(*arguments: Any) -> tuple[bytes, str] | None:
        threads.add(threading.get_ident())
        return search(*arguments)

    monkeypatch.setattr(enrolment, "_search", seen)
    with books_in(tmp_path) as books:
        async with running_hub(contributors=books.contributors) as network:
            node = ScriptedNode(network.hub.invite, network.model)
            stub, nonce, answer = await challenge(network, node)
            request = node.enrol_request(nonce, answer)
            request.invite_proof = bytes(32)
            code, _ = await refused(stub.Enrol(request))
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert threads and threading.get_ident() not in threads


async def test_a_proof_without_the_key() -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        for signature in (b"", bytes(64), Identity.generate().sign(b"anything")):
            stub, nonce, answer = await challenge(network, node)
            request = node.enrol_request(nonce, answer)
            request.possession_proof = signature
            code, _ = await refused(stub.Enrol(request))
            assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_nonce_works_once() -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        request = node.enrol_request(nonce, answer)
        await stub.Enrol(request)
        code, details = await refused(stub.Enrol(request))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "new challenge" in details


async def test_a_nonce_is_the_nodes_that_asked() -> None:
    async with running_hub() as network:
        one, two = (ScriptedNode(network.hub.invite, network.model) for _ in range(2))
        _, nonce, answer = await challenge(network, one)
        stub, _, _ = await challenge(network, two)
        code, _ = await refused(stub.Enrol(two.enrol_request(nonce, answer)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        code, _ = await refused(stub.Enrol(two.enrol_request(nonce, bytes(32))))
        assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_changed_name_breaks_the_proof() -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        request = node.enrol_request(nonce, answer)
        request.name = "somebody else"
        code, _ = await refused(stub.Enrol(request))
        assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("key", [IDENTITY_POINT, bytes(32), b"\xff" * 32, b"", bytes(31), b"x" * 1000])
async def test_keys_that_bind_nobody(key: bytes) -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        code, _ = await refused(
            stub.Challenge(enrolment_pb2.ChallengeRequest(node_key=key, node_nonce=nonce))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        request = node.enrol_request(nonce, answer)
        request.node_key = key
        code, _ = await refused(stub.Enrol(request))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)


@pytest.mark.parametrize(
    "change",
    [
        {"node_nonce": b"short"},
        {"name": "n" * 65},
        {"software_version": "v" * 65},
    ],
)
async def test_fields_of_the_wrong_length(change: dict[str, object]) -> None:
    async with running_hub() as network:
        node = ScriptedNode(network.hub.invite, network.model)
        stub, nonce, answer = await challenge(network, node)
        request = node.enrol_request(nonce, answer)
        for name, value in change.items():
            setattr(request, name, value)
        code, _ = await refused(stub.Enrol(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_tickets_that_do_not_let_in() -> None:
    async with running_hub() as network:
        tickets: dict[str, Callable[[Identity], bytes]] = {
            "forged": lambda node: issue_ticket(Identity.generate(), node.public, 1 << 40),
            "foreign": lambda node: issue_ticket(network.identity, Identity.generate().public, 1 << 40),
            "expired": lambda node: issue_ticket(network.identity, node.public, 1000),
            "malformed": lambda node: b"\0" * 104,
            "short": lambda node: b"\0",
            "unknown here": lambda node: issue_ticket(network.identity, node.public, 1 << 40),
        }
        for kind, make in tickets.items():
            node = ScriptedNode(network.hub.invite, network.model)
            network.nodes.append(node)
            node.ticket = make(node.identity)
            code, _ = await refused(node.join())
            assert code is grpc.StatusCode.UNAUTHENTICATED, kind
            assert not network.hub.snapshot().nodes


def test_the_table_of_challenges_is_bounded_and_forgets() -> None:
    table = ChallengeTable(lifetime_s=60, bound=10)
    nonces = [table.issue(bytes([index]) * 32, bytes(32), now_s=0) for index in range(25)]
    assert len(table) == 10
    with pytest.raises(ChallengeError):
        table.redeem(nonces[0], bytes(32), bytes(32), now_s=1)
    table.redeem(nonces[24], bytes([24]) * 32, bytes(32), now_s=59)
    with pytest.raises(ChallengeError):
        table.redeem(nonces[24], bytes([24]) * 32, bytes(32), now_s=59)
    with pytest.raises(ChallengeError):
        table.redeem(nonces[23], bytes([23]) * 32, bytes(32), now_s=60)
    with pytest.raises(ChallengeError):
        table.redeem(nonces[22], bytes([21]) * 32, bytes(32), now_s=1)
    with pytest.raises(ChallengeError):
        table.redeem(nonces[22], bytes([22]) * 32, bytes(32), now_s=1)
    table.issue(bytes(32), bytes(32), now_s=100)
    assert len(table) == 1, "expired challenges go when a new one comes"


def test_names_are_made_safe_to_print() -> None:
    assert clean_name("a\x1b[31mb\nc\u200bd  e") == "a[31mb cd e"
    assert clean_name("\x00\x01") == ""
    assert len(clean_name("n" * 500)) == 64
