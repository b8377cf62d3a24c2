"""`folkmoot node receipts`: what a contributor holds is shown, checked offline and against a log over real HTTP; what is damaged,
forged, disputed, or said to stand in a log where it does not, is said to, and the command ends with 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from folkmoot.cli.main import run
from folkmoot.coordinator.api import errors
from folkmoot.coordinator.api.log import LogRoutes
from folkmoot.coordinator.ledger.log_store import LogStore
from folkmoot.errors import TrustError
from folkmoot.node.receipt_folder import ReceiptFolder
from folkmoot.tests.support.live_server import live_server
from folkmoot.trust import merkle
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import EnrolmentEntry, LogEntry
from folkmoot.trust.logged_receipts import LoggedReceipt, batch_entry, batch_leaf, batch_of
from folkmoot.trust.receipts import CreditedResult, Receipt, ReceiptChain, SignedReceipt

OPERATOR, OTHER, NODE = Identity(b"l" * 32), Identity(b"o" * 32), Identity(b"n" * 32)


def receipt(session: int, previous: Receipt | None = None, by: Identity = OPERATOR) -> SignedReceipt:
    """The next of a session, over ten results."""
    chain = ReceiptChain(by.public, NODE.public, bytes([session]) * 32, b"m" * 32)
    before = previous.through if previous else 0
    results = [CreditedResult(before + number, bytes([number]) * 32, 2, 100) for number in range(1, 11)]
    return SignedReceipt.signed(chain.next(previous, results, before + 10, 1_700_000_000), by)


class Desk:
    """A node's receipts, and the log that they stand in.

    Attributes:
        read: What is served now.
        url: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.state = folder / "node"
        self.state.mkdir()
        self.folder = ReceiptFolder(self.state)
        self.store = LogStore(folder / "log", OPERATOR)
        self.store.append([self.enrolment(OPERATOR)])
        self.read: Callable[[str], bytes | None] = self.store.read
        self.url = ""

    def enrolment(self, by: Identity) -> bytes:
        return LogEntry.signed(EnrolmentEntry(by.public, NODE.public, bytes(32), 7), by).encode()

    def log(self, *receipts: SignedReceipt) -> None:
        """Puts receipts into the log, and the proofs into the node's folder."""
        batch = batch_of(receipts)
        entry = LogEntry.signed(batch_entry(OPERATOR.public, batch, 9), OPERATOR).encode()
        index = self.store.append([entry])
        leaves = [batch_leaf(one) for one in batch]
        for place, one in enumerate(batch):
            proof = tuple(merkle.inclusion_proof(leaves, place))
            self.folder.keep_logged(LoggedReceipt(one, place, proof, entry, index))

    def served(self, path: str) -> bytes | None:
        return self.read(path)

    def ask(self, *options: str, look_up: bool = True) -> int:
        url = ["--url", self.url] if look_up else []
        return run(["node", "receipts", "--state", str(self.state), *url, *options])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk, app = Desk(tmp_path), FastAPI()
    errors.install(app)
    app.include_router(LogRoutes(desk.served).router())
    with live_server(app) as desk.url:
        yield desk


def test_receipts_are_shown_and_looked_up(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = receipt(1), receipt(2)
    desk.log(first, second)
    later = receipt(2, second.receipt)
    desk.folder.keep(later)
    assert desk.ask() == 0
    said = capsys.readouterr().out
    assert said.count("and is there") == 2
    assert "2 sessions, 30 results accepted, 20 in the log" in said
    assert desk.ask("--json", look_up=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["held"]
    assert [one["results"] for one in document["sessions"]] == [10, 20]
    assert [one["row_bytes"] for one in document["sessions"]] == [1000, 2000]


def test_a_node_without_receipts_says_so(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.ask() == 0
    assert "0 sessions" in capsys.readouterr().out


def test_a_log_that_lost_the_batch_is_caught(desk: Desk, tmp_path: Path) -> None:
    desk.log(receipt(1))
    other = LogStore(tmp_path / "other", OPERATOR)
    other.append([desk.enrolment(OPERATOR)] * 3)
    desk.read = other.read
    assert desk.ask(look_up=False) == 0
    assert desk.ask() == 1


def test_another_coordinators_log_says_nothing(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.log(receipt(1))
    other = LogStore(tmp_path / "other", OTHER)
    other.append([desk.enrolment(OTHER)])
    desk.read = other.read
    assert desk.ask() == 0
    said = capsys.readouterr().out
    assert "another coordinator's" in said
    assert "0 in the log" in said


def test_what_is_damaged_or_forged_is_said_to_be(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for session in range(1, 4):
        desk.folder.keep(receipt(session))
    paths = sorted(desk.folder.path.iterdir())
    paths[0].write_bytes(b"none")
    paths[1].write_bytes(receipt(2).receipt.encode() + OTHER.sign(b"something"))
    assert desk.ask(look_up=False) == 1
    said = capsys.readouterr().out.splitlines()
    assert sorted(line[:2] for line in said[:3]) == ["NO", "NO", "ok"]


def test_a_disputed_receipt_is_shown(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.folder.keep(receipt(1))
    desk.folder.dispute(receipt(1, receipt(1).receipt))
    assert desk.ask(look_up=False) == 1
    assert "is not what this node has done" in capsys.readouterr().out


def test_what_is_no_log_is_an_error(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.read = lambda path: b"nothing"
    assert desk.ask() == TrustError.exit_code
    assert capsys.readouterr().err.startswith("error: ")
