"""Proven of every kind of statement, through the code that accepts it: with any single bit flipped, in what is sent, in what was
signed, or in the signature, it is refused by an error of this project's own. Here: what passes between a node and its coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import numpy as np
import pytest
import torch

from folkmoot.coordinator.audit.question import Question
from folkmoot.coordinator.audit.selection import Selection
from folkmoot.coordinator.dispatch.acceptance import Expected, accept
from folkmoot.coordinator.dispatch.challenge import SentChallenge
from folkmoot.coordinator.hub.attaching import Attachments
from folkmoot.coordinator.hub.settings import HubSettings
from folkmoot.coordinator.ledger.session_book import SessionBook
from folkmoot.coordinator.ledger.settings import ReceiptSettings
from folkmoot.errors import TrustError, WireError
from folkmoot.ids import ExpertKey, SessionId
from folkmoot.models.work_meter import WorkMeter
from folkmoot.node.receipt_folder import ReceiptFolder
from folkmoot.node.receipt_keeper import ReceiptCounts, ReceiptKeeper
from folkmoot.node.receipts import ReceiptWindow
from folkmoot.node.session import Session
from folkmoot.protos.codec import encode_tensor, raw_bytes, wire_dtype
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.flips import accepted_flips, every_flip, flipped, signed_with_each_flip
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.small_evidence import (
    COORDINATOR,
    DIGEST,
    NODE,
    PROFILE,
)
from folkmoot.trust import statements
from folkmoot.trust.audit_statements import OpeningKind, OpeningStatement
from folkmoot.trust.receipts import CreditedResult, ReceiptChain, SignedReceipt, result_leaf
from folkmoot.trust.statements import ResultStatement, TaskStatement
from folkmoot.trust.tickets import issue_ticket

PATIENCE_S: Final = 60.0


SIGNATURE_STEP: Final = 7
"""One code checks all signatures: every bit is tried of those of results, receipts, tickets and entries, some of the others."""


OUTPUT = torch.tensor([[0.5, -1.5, 3.0], [1e-3, 7.0, -0.125]])


TASK = TaskStatement(
    COORDINATOR.public, NODE.public, b"s" * 32, 7, DIGEST, PROFILE, 3, 2, 3, b"r" * 32, b"i" * 32, 5000
)


RESULT = ResultStatement(
    TASK.digest(),
    statements.tensor_digest(wire_dtype(OUTPUT.dtype), tuple(OUTPUT.shape), raw_bytes(OUTPUT)),
    0,
)


def a_result(signature: bytes, data: bytes | None = None) -> link_pb2.Result:
    message = link_pb2.Result(sequence=7, output=encode_tensor(OUTPUT), signature=signature)
    if data is not None:
        message.output.data = data
    return message


def test_results() -> None:
    expected, signature = Expected(TASK, NODE.verifying_key), NODE.sign(RESULT.encode())
    refusals = (TrustError, WireError)
    assert not signed_with_each_flip(
        RESULT.encode(), NODE, lambda one: accept(a_result(one), expected), *refusals
    )
    assert not accepted_flips(signature, lambda one: accept(a_result(one), expected), *refusals)
    data = bytes(raw_bytes(OUTPUT))
    assert not accepted_flips(data, lambda one: accept(a_result(signature, one), expected), *refusals)


def test_tasks() -> None:
    """A node that was asked anything else has signed something else."""
    encoded = TASK.encode()
    signature = NODE.sign(RESULT.encode())

    def answers(data: bytes) -> None:
        accept(a_result(signature), Expected(TaskStatement.decode(data, PROFILE), NODE.verifying_key))

    assert not accepted_flips(encoded, answers, TrustError, WireError)
    for profile in every_flip(PROFILE.encode()):
        other = dataclasses.replace(TASK, profile=profile.decode(errors="replace"))
        with pytest.raises(TrustError):
            accept(a_result(signature), Expected(other, NODE.verifying_key))


def test_openings_and_challenges() -> None:
    model = MemoryExperts(hidden=4, intermediate=4)
    node, spec = AskedNode(model, bytes(32)), model.manifest.spec_of(ExpertKey(0, 0))
    verified = node.result(0, rows=1)
    for kind in OpeningKind:
        question = Question.about(verified, Selection((), np.arange(1), verified.pairs), kind)
        answers: list[Any] = []
        node.answer(SentChallenge(question.message(1.0), 1, 1.0, answers.append))
        opening: link_pb2.Opening = answers[0]

        def read(
            name: str, data: bytes, question: Question = question, opening: link_pb2.Opening = opening
        ) -> None:
            other = link_pb2.Opening()
            other.CopyFrom(opening)
            if name == "signature":
                other.signature = data
            else:
                getattr(other, name).data = data
            question.read(other, spec, model.manifest)

        refusals = (TrustError, WireError)
        for name in ("signature", "gate", "up"):
            honest = opening.signature if name == "signature" else getattr(opening, name).data
            step = SIGNATURE_STEP if name == "signature" else 1
            found = accepted_flips(honest, partial(read, name), *refusals, step=step)
            assert not found, name
        if kind is OpeningKind.RAW:
            continue  # the kind is one of the challenge's fields
        digests = [
            statements.tensor_digest(part.dtype, tuple(part.shape), part.data)
            for part in (opening.gate, opening.up)
        ]
        statement = OpeningStatement(question.statement.digest(), *digests).encode()
        assert not signed_with_each_flip(statement, node.identity, partial(read, "signature"), *refusals)
        for challenge in every_flip(question.statement.encode()):
            other = OpeningStatement(hashlib.sha256(challenge).digest(), *digests)
            with pytest.raises(refusals):
                read("signature", node.identity.sign(other.encode()))


MODEL = MemoryExperts()


SESSION = Session(NODE, COORDINATOR.public, SessionId(b"s" * 32), MODEL.manifest.digest, 64, 64)


CHAIN = ReceiptChain(COORDINATOR.public, NODE.public, SESSION.session, MODEL.manifest.digest)


LAYER = min(MODEL.manifest.layers)


EXPERTS = np.array([0, 1], np.int32)


def credited() -> CreditedResult:
    meter = WorkMeter(MODEL.manifest)
    return CreditedResult(1, result_leaf(RESULT), len(EXPERTS), meter.row_bytes(LAYER, EXPERTS))


@cache
def a_receipt() -> SignedReceipt:
    return SignedReceipt.signed(CHAIN.next(None, [credited()], 1, 7), COORDINATOR)


async def test_receipts_by_their_keeper(tmp_path: Path) -> None:
    acknowledged = asyncio.Event()
    counts = ReceiptCounts()
    keeper = ReceiptKeeper(SESSION, ReceiptFolder(tmp_path), counts, lambda message: acknowledged.set())
    window = ReceiptWindow(SESSION, MODEL.manifest)
    window.answered(
        link_pb2.Frame(sequence=1, layer=LAYER, experts=encode_tensor(torch.from_numpy(EXPERTS.copy()))),
        RESULT,
    )
    keeper.follow(window)
    keeper.came(1)
    running = asyncio.create_task(keeper.run())
    signed = a_receipt()
    honest = link_pb2.Receipt(statement=signed.receipt.encode(), signature=signed.signature)
    others = [
        link_pb2.Receipt(statement=data, signature=signed.signature) for data in every_flip(honest.statement)
    ]
    others += [
        link_pb2.Receipt(statement=honest.statement, signature=data) for data in every_flip(signed.signature)
    ]
    async with asyncio.timeout(PATIENCE_S):
        for number, other in enumerate(others, 1):
            keeper.take(other)
            while number % 100 == 0 and counts.disputed < number:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        keeper.take(honest)
        await acknowledged.wait()
    running.cancel()
    assert (counts.disputed, counts.agreed) == (len(others), 1)


def test_acknowledgements() -> None:
    def agrees(digest: bytes, signature: bytes) -> None:
        book = SessionBook(CHAIN, COORDINATOR, ReceiptSettings(), 0.0)
        book.accept(credited())
        issued = book.close(1, 1.0, 7)
        assert issued is not None
        book.acknowledge(digest, signature, NODE.verifying_key)

    book = SessionBook(CHAIN, COORDINATOR, ReceiptSettings(), 0.0)
    book.accept(credited())
    issued = book.close(1, 1.0, 7)
    assert issued is not None
    digest = issued.signed.receipt.digest()
    statement = statements.domain_tag("acknowledgement") + digest
    signature = NODE.sign(statement)
    assert not accepted_flips(digest, lambda one: agrees(one, signature), TrustError)
    assert not accepted_flips(signature, lambda one: agrees(digest, one), TrustError, step=SIGNATURE_STEP)
    assert not signed_with_each_flip(statement, NODE, lambda one: agrees(digest, one), TrustError)


class Refused(Exception):
    """The stub's end of a call."""


class Call:
    """What gRPC gives a servicer: messages that come, and how the call ends."""

    def __init__(self, hello: link_pb2.Hello, change: Any) -> None:
        self._hello = hello
        self._change = change
        self._welcome: link_pb2.Welcome | None = None
        self._turn = 0

    async def read(self) -> Any:
        self._turn += 1
        if self._turn == 1:
            return link_pb2.NodeMessage(hello=self._hello)
        assert self._welcome is not None
        session = statements.session_id(self._welcome.coordinator_nonce, self._hello.node_nonce)
        statement = statements.session_statement(COORDINATOR.public, NODE.public, session, self._hello.ticket)
        return link_pb2.NodeMessage(attached=link_pb2.Attached(session_signature=self._change(statement)))

    async def write(self, message: link_pb2.CoordinatorMessage) -> None:
        self._welcome = message.welcome

    async def abort(self, code: object, detail: str = "") -> None:
        raise Refused(code, detail)


class Joined(Exception):
    """The handshake held."""


async def attach(ticket: bytes, change: Any) -> None:
    """One handshake; raises Refused."""

    def joined(*_: object) -> None:
        raise Joined

    reception: Any = SimpleNamespace(refusal=lambda node: None, joined=joined, left=lambda link: None)
    reception.on_fault = lambda *_: None
    roster: Any = SimpleNamespace(find=lambda node: SimpleNamespace(name="a", record=None))
    attachments = Attachments(
        COORDINATOR, MODEL.manifest, 64, HubSettings(), roster, cast(Any, None), reception
    )
    hello = link_pb2.Hello(node_key=NODE.public, node_nonce=b"n" * 32, ticket=ticket)
    with contextlib.suppress(Joined):
        await attachments.Attach(None, Call(hello, change))


async def test_sessions() -> None:
    ticket = issue_ticket(COORDINATOR, NODE.public, int(time.time()) + 3600)
    await attach(ticket, NODE.sign)
    length = len(statements.session_statement(bytes(32), bytes(32), bytes(32), ticket))
    for bit in range(8 * length):
        with pytest.raises(Refused):
            await attach(ticket, lambda data, bit=bit: NODE.sign(flipped(data, bit)))
    for bit in range(0, 8 * 64, SIGNATURE_STEP):
        with pytest.raises(Refused):
            await attach(ticket, lambda data, bit=bit: flipped(NODE.sign(data), bit))
