"""Proven of the node's side: what it answered is what it agrees with and nothing else; once cheated it agrees with nothing more of a
session; memory and files are bounded; nothing that is sent as a receipt ends it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.ids import SessionId
from folkmoot.models.work_meter import WorkMeter
from folkmoot.node import receipt_folder, receipts
from folkmoot.node.receipt_folder import ReceiptFolder, takes_back
from folkmoot.node.receipt_keeper import MOST_WAITING, ReceiptCounts, ReceiptKeeper, TooManyReceiptsError
from folkmoot.node.receipts import ReceiptMismatchError, ReceiptWindow
from folkmoot.node.session import Session
from folkmoot.protos.codec import encode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust import merkle
from folkmoot.trust.keys import Identity, SignatureError
from folkmoot.trust.log_entries import LogEntry
from folkmoot.trust.logged_receipts import LoggedReceipt, batch_entry, batch_leaf
from folkmoot.trust.receipts import (
    Acknowledgement,
    CreditedResult,
    Receipt,
    ReceiptChain,
    ReceiptError,
    SignedReceipt,
    result_leaf,
)
from folkmoot.trust.statements import ResultStatement

COORDINATOR, NODE, OTHER = (Identity(bytes([n]) * 32) for n in range(1, 4))
MODEL = MemoryExperts()
MANIFEST = MODEL.manifest
LAYER = min(MANIFEST.layers)
SESSION = Session(NODE, COORDINATOR.public, SessionId(b"s" * 32), MANIFEST.digest, 64, 64)
CHAIN = ReceiptChain(COORDINATOR.public, NODE.public, SESSION.session, MANIFEST.digest)
EXPERTS = [0, 0, 1]


def statement(sequence: int) -> ResultStatement:
    return ResultStatement(sequence.to_bytes(32), b"o" * 32, 0)


def frame(sequence: int) -> link_pb2.Frame:
    experts = encode_tensor(torch.tensor(EXPERTS, dtype=torch.int32))
    return link_pb2.Frame(sequence=sequence, layer=LAYER, experts=experts)


def credited(*sequences: int) -> list[CreditedResult]:
    """The coordinator's view of the same answers."""
    row_bytes = WorkMeter(MANIFEST).row_bytes(LAYER, np.array(EXPERTS, np.int32))
    return [
        CreditedResult(number, result_leaf(statement(number)), len(EXPERTS), row_bytes)
        for number in sequences
    ]


def window(*sequences: int) -> ReceiptWindow:
    one = ReceiptWindow(SESSION, MANIFEST)
    for sequence in sequences:
        one.answered(frame(sequence), statement(sequence))
    return one


def receipt(
    previous: SignedReceipt | None, *sequences: int, through: int = 0, by: Identity = COORDINATOR
) -> SignedReceipt:
    before = previous.receipt if previous is not None else None
    return SignedReceipt.signed(CHAIN.next(before, credited(*sequences), through or sequences[-1], 7), by)


def changed(signed: SignedReceipt, **changes: object) -> SignedReceipt:
    return SignedReceipt.signed(dataclasses.replace(signed.receipt, **changes), COORDINATOR)  # type: ignore[arg-type]


def test_both_ends_count_work_alike() -> None:
    experts = np.array([0, 0, 1, 3], np.int32)
    each = [MANIFEST.expert_bytes(key) for key in MANIFEST.layers[LAYER]]
    assert WorkMeter(MANIFEST).row_bytes(LAYER, experts) == 2 * each[0] + each[1] + each[3]


def test_receipts_of_what_was_answered_are_agreed_with() -> None:
    one = window(1, 2, 4, 5, 6)
    first = receipt(None, 1, 4, through=4)
    assert one.check(first, {2, 3}, newest=6) == [2]
    second = receipt(first, 5, 6, through=7)
    assert one.check(second, {7}, newest=7) == []
    assert one.last == second
    assert one.waiting == 0
    assert not one.disputed


@pytest.mark.parametrize(
    "wrong",
    [
        receipt(None, 1, 2),
        receipt(None, 1, 2, 3, 4),
        changed(receipt(None, 1, 2, 3), root=merkle.root([one.leaf for one in credited(2, 1, 3)])),
        changed(receipt(None, 1, 2, 3), through=9),
        changed(receipt(None, 1, 2, 3), session=b"t" * 32),
        changed(receipt(None, 1, 2, 3), rows=8),
        changed(receipt(None, 1, 2, 3), number=2),
    ],
    ids=["omitted", "invented", "reordered", "ahead", "session", "underpaid", "number"],
)
def test_once_cheated_a_node_agrees_with_nothing_more(wrong: SignedReceipt) -> None:
    one = window(1, 2, 3)
    through = wrong.receipt.through
    with pytest.raises(ReceiptMismatchError):
        one.check(wrong if through != 2 else changed(wrong, through=3), (), newest=4)
    assert one.disputed
    one.answered(frame(20), statement(20))
    with pytest.raises(ReceiptMismatchError):
        one.check(receipt(wrong, 20), (), newest=20)
    assert one.last is None


def test_a_receipt_that_the_coordinator_did_not_sign_is_none() -> None:
    one = window(1)
    with pytest.raises(SignatureError):
        one.check(receipt(None, 1, by=OTHER), (), newest=1)
    assert not one.disputed
    assert one.check(receipt(None, 1), (), newest=1) == []


def test_answers_without_receipts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST_OPEN", 3)
    one = window(1, 2, 3, 4, 5)
    assert one.waiting == 3
    with pytest.raises(ReceiptMismatchError):
        one.check(receipt(None, 1, 2, 3, 4, 5), (), newest=5)


class Seat:
    """A keeper, and what it sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = ReceiptFolder(folder)
        self.counts = ReceiptCounts()
        self.sent: list[link_pb2.NodeMessage] = []
        self.keeper = ReceiptKeeper(SESSION, self.folder, self.counts, self.sent.append)
        self.window = window(1, 2, 3)
        self.keeper.follow(self.window)
        self.keeper.came(3)

    def give(self, statement: bytes, signature: bytes, *omitted: int) -> None:
        message = link_pb2.Receipt(statement=statement, signature=signature, omitted=omitted)
        answer = self.keeper._check(message, self.window, 3)
        if answer is not None:
            self.sent.append(answer)

    def give_logged(self, logged: bytes) -> None:
        self.keeper._check_logged(link_pb2.LoggedReceipt(logged=logged))


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    return Seat(tmp_path)


def logged(signed: SignedReceipt, by: Identity = COORDINATOR) -> LoggedReceipt:
    entry = LogEntry.signed(batch_entry(by.public, [signed], 9), by)
    assert merkle.root([batch_leaf(signed)]) == batch_leaf(signed)
    return LoggedReceipt(signed, 0, (), entry.encode(), 4)


def test_what_is_agreed_with_is_on_disk_and_said(seat: Seat) -> None:
    one = receipt(None, 1, 2, 3)
    seat.give(one.receipt.encode(), one.signature)
    (kept,) = seat.folder.sessions()
    assert kept.newest == one
    (message,) = seat.sent
    digest = one.receipt.digest()
    assert message.acknowledgement.receipt == digest
    NODE.verifying_key.verify(message.acknowledgement.signature, Acknowledgement(digest).encode())
    assert dataclasses.asdict(seat.counts) == {
        "agreed": 1,
        "results": 3,
        "disputed": 0,
        "omitted": 0,
        "logged": 0,
    }


def test_what_is_not_accepted_is_counted_and_said(seat: Seat, caplog: pytest.LogCaptureFixture) -> None:
    one = receipt(None, 1, 3)
    with caplog.at_level(logging.WARNING):
        seat.give(one.receipt.encode(), one.signature, 2)
    assert (seat.counts.agreed, seat.counts.omitted) == (1, 1)
    assert "did not accept 1 answers" in caplog.text


@given(st.binary(max_size=400), st.binary(max_size=80), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_whatever_comes_as_a_receipt_is_only_counted(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, signature: bytes, omitted: list[int]
) -> None:
    seat = Seat(tmp_path_factory.getbasetemp() / "any-receipts")
    good = receipt(None, 1, 2, 3)
    for wrong in (text, good.receipt.encode()[: len(text)] + text, good.receipt.encode()):
        seat.give(wrong, signature, *omitted)
        seat.give_logged(wrong + signature)
    assert seat.counts.disputed == 6
    assert not seat.sent


def test_a_proof_of_a_sessions_last_receipt_brings_the_receipt(seat: Seat) -> None:
    first = receipt(None, 1, 2)
    last = receipt(first, 3)
    seat.give(first.receipt.encode(), first.signature)
    seat.give_logged(logged(last).encode())
    (kept,) = seat.folder.sessions()
    assert (kept.newest, kept.logged) == (last, logged(last))
    assert seat.counts.logged == 1


def test_a_proof_that_takes_something_back_is_disputed(seat: Seat) -> None:
    first = receipt(None, 1, 2)
    seat.give(first.receipt.encode(), first.signature)
    for less in (
        receipt(None, 1),
        changed(receipt(first, 3), total=1),
        changed(receipt(first, 3), previous=b"x" * 32),
    ):
        seat.give_logged(logged(less).encode())
    (kept,) = seat.folder.sessions()
    assert (kept.newest, kept.logged) == (first, None)
    assert len(seat.folder.disputed()) == 2  # Of one number, the last that came.
    assert seat.counts.logged == 0


@pytest.mark.parametrize("whose", ["node", "coordinator"])
def test_a_proof_of_anothers_receipt_is_none(seat: Seat, whose: str) -> None:
    by = OTHER if whose == "coordinator" else COORDINATOR
    chain = dataclasses.replace(CHAIN, **{whose: OTHER.public})
    foreign = SignedReceipt.signed(chain.next(None, credited(1), 1, 7), by)
    seat.give_logged(logged(foreign, by).encode())
    assert seat.counts.disputed == 1
    assert not list(seat.folder.sessions())


async def test_too_many_receipts_end_the_link(seat: Seat) -> None:
    for _ in range(MOST_WAITING):
        seat.keeper.take(link_pb2.Receipt())
    with pytest.raises(TooManyReceiptsError):
        seat.keeper.take(link_pb2.Receipt())


def test_two_receipts_of_a_session_that_cannot_both_be() -> None:
    first = receipt(None, 1)
    second = receipt(first, 2)
    third = receipt(second, 3).receipt
    assert not takes_back(first.receipt, second.receipt)
    assert not takes_back(second.receipt, first.receipt)
    assert not takes_back(first.receipt, third)
    assert takes_back(first.receipt, receipt(None, 1, 2).receipt)
    less: list[dict[str, int]] = [{"rows": 0}, {"row_bytes": 0}, {"through": 0}, {"total": 0}]
    for change in less:
        other: Receipt = dataclasses.replace(third, **change)  # type: ignore[arg-type]
        assert takes_back(first.receipt, other)


def test_old_sessions_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_folder, "MOST_SESSIONS", 3)
    folder = ReceiptFolder(tmp_path)
    for session in range(5):
        chain = dataclasses.replace(CHAIN, session=bytes([session]) * 32)
        for previous in (None, chain.next(None, credited(1), 1, 7)):
            one = chain.next(previous, credited(5 if previous else 1), 5 if previous else 1, 7)
            folder.keep(SignedReceipt.signed(one, COORDINATOR))
    kept = {
        one.newest.receipt.session[0]: one.newest.receipt.number for one in folder.sessions() if one.newest
    }
    assert kept == {2: 2, 3: 2, 4: 2}


def test_a_damaged_file_is_said_to_be_and_not_overwritten_in_silence(tmp_path: Path) -> None:
    folder = ReceiptFolder(tmp_path)
    one = receipt(None, 1)
    folder.keep(one)
    (path,) = folder.path.iterdir()
    path.write_bytes(b"something")
    (kept,) = folder.sessions()
    assert kept.newest is None
    assert str(path) in str(kept.error)
    with pytest.raises(ReceiptError):
        folder.keep(one)
