"""SIGKILL to a coordinator under load, at random points: whatever a node has a receipt for is in the books at that very moment, and when
the coordinator and its nodes are back, the books and the nodes' own receipts say the same, to the byte.

What may be missing from both is work that nobody has a receipt for: results of the last moments before the kill, of which the
coordinator had signed nothing that left it. What no receipt says, neither side claims.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from folkmoot.cli.main import run
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.ids import NodeId
from folkmoot.node.receipt_folder import ReceiptFolder
from folkmoot.tests.support.forked_coordinator import Forks
from folkmoot.tests.support.kept_books import accounts_of, owed
from folkmoot.tests.support.postgres_server import PostgresServer
from folkmoot.tests.support.prepared_models import TinyModels
from folkmoot.tests.support.process_network import PATIENCE_S, ProcessNetwork
from folkmoot.tests.support.session_accounts import SessionAccount
from folkmoot.tests.support.steady_load import Question, SteadyLoad, questions
from folkmoot.trust.keys import Identity
from folkmoot.trust.receipts import Receipt, SignedReceipt

NODES = ("ash", "birch")
SEED = 20_260
STREAMS = 4
LONGEST_S = 1.2
"""Receipts are made all the time: a kill at any moment of this meets one on its way, more often than not."""
ENVIRONMENT = {
    "FOLKMOOT_COORDINATOR_RECEIPTS__RESULTS": "64",
    "FOLKMOOT_COORDINATOR_RECEIPTS__EVERY_S": "0.05",
    "FOLKMOOT_COORDINATOR_RECEIPTS__SETTLE_S": "0.1",
    "FOLKMOOT_COORDINATOR_RECEIPTS__TICK_S": "0.02",
    "FOLKMOOT_COORDINATOR_RECEIPTS__LOG_EVERY_S": "0.2",
    "FOLKMOOT_COORDINATOR_RECEIPTS__CREDIT_EVERY_S": "0.2",
    "FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false",
}


@dataclass
class Village:
    """A network, and both sides' books."""

    network: ProcessNetwork
    folder: Path
    settings: BooksSettings
    model: str
    asked: list[Question]

    def held(self) -> dict[bytes, Receipt]:
        """The newest receipt that a node has for each session, every one of them signed."""
        found = {}
        for name in NODES:
            for kept in ReceiptFolder(self.folder / name).sessions():
                assert kept.error is None
                assert isinstance(kept.newest, SignedReceipt)
                kept.newest.verify()
                found[kept.newest.receipt.session] = kept.newest.receipt
            assert not ReceiptFolder(self.folder / name).disputed()
        return found

    def booked(self) -> dict[bytes, SessionAccount]:
        """What the books have of each session."""
        accounts = accounts_of(self.folder / "coordinator", self.settings)
        return {one.receipt.receipt.session: one for one in accounts}

    def kill_under_load(self, point: int, draw: random.Random) -> None:
        """Kills the coordinator while it answers."""
        with SteadyLoad(self.network.api_url, self.model, self.asked, STREAMS, point) as load:
            time.sleep(draw.uniform(0, LONGEST_S))
            self.network.kill("coordinator")
        assert not [fault for fault in load.faults if ": token " in fault], "a wrong token"

    def check_killed(self) -> None:
        """Nothing that a node was told is missing, and what is owed is exactly the sum of the sessions."""
        held, booked = self.held(), self.booked()
        sums: dict[NodeId, Credit] = {}
        for one in booked.values():
            sums[one.node] = sums.get(one.node, Credit()) + one.credit
        assert sums == owed(self.folder / "coordinator", self.settings)
        for session, receipt in held.items():
            account = booked[session]
            newest = account.receipt.receipt
            assert newest.number >= receipt.number
            assert newest.number > receipt.number or newest == receipt
            assert (account.credit.results, account.credit.row_bytes) >= (receipt.total, receipt.row_bytes)

    def balanced(self) -> bool:
        """Whether both sides have the same newest receipt of every session, and what is owed is their sum.

        Nodes that come back are probed, so that for a moment one side may be further than the other.
        """
        held = self.held()
        if held != {session: one.receipt.receipt for session, one in self.booked().items()}:
            return False
        sums: dict[NodeId, Credit] = {}
        for receipt in held.values():
            node = NodeId(receipt.node.hex())
            credit = Credit(receipt.total, receipt.rows, receipt.row_bytes)
            sums[node] = sums.get(node, Credit()) + credit
        return sums == owed(self.folder / "coordinator", self.settings)

    def until_balanced(self) -> None:
        """Waits for what was in the books and not on its way yet."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.balanced():
            self.network.check()
            assert time.monotonic() < deadline_s, (len(self.held()), len(self.booked()))
            time.sleep(0.05)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture(params=["sqlite", "postgresql"])
def village(
    request: pytest.FixtureRequest, forks: Forks, tiny_models: TinyModels, tmp_path: Path
) -> Iterator[Village]:
    settings, environment = BooksSettings(), dict(ENVIRONMENT)
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings = BooksSettings(url=server.database())
        environment["FOLKMOOT_COORDINATOR_BOOKS__URL"] = settings.url
    model = tiny_models.get("qwen3_moe")
    asked = questions(model, ["Why is the sky blue?", "What is a moot?"], 30)
    folder = model.prepared.folder
    with ProcessNetwork(folder, tmp_path, NODES, environment=environment, forks=forks) as network:
        yield Village(network, tmp_path, settings, model.prepared.name, asked)


def check(village: Village, points: int, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(SEED)
    earned = 0
    for point in range(points):
        village.kill_under_load(point, draw)
        village.check_killed()
        village.network.heal()
        village.until_balanced()
        results = sum(one.total for one in village.held().values())
        assert results >= earned
        earned = results
        with capsys.disabled():
            print(f"\npoint {point + 1} of {points}: {results} results receipted", end="", flush=True)
    assert earned > points
    assert len(village.held()) > points, "there were new sessions after each kill"
    capsys.readouterr()
    state = str(village.folder / "state")
    assert run(["log", "verify", village.network.api_url, "--complete", "--state", state]) == 0
    for name in NODES:
        assert (
            run(["node", "receipts", "--state", str(village.folder / name), "--url", village.network.api_url])
            == 0
        )
        assert Identity.load_or_create(village.folder / name / "identity.key").node_id in owed(
            village.folder / "coordinator", village.settings
        )


@pytest.mark.timeout(600)
def test_the_books_balance_after_a_few_kills(village: Village, capsys: pytest.CaptureFixture[str]) -> None:
    check(village, 2, capsys)


@pytest.mark.books
@pytest.mark.timeout(7200)
def test_the_books_balance_after_200_kills(village: Village, capsys: pytest.CaptureFixture[str]) -> None:
    check(village, 200, capsys)
