"""`folkmoot coordinator invite|credits|leaderboard|history|ban` beside the books and without a coordinator: what they print is exact, and
where there is nothing they say so and make nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folkmoot.cli.main import run
from folkmoot.coordinator.app import IDENTITY_FILE
from folkmoot.coordinator.audit.orders import OrderBox
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.receipt_book import write_credits
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.hub.join_secret import JOIN_SECRET_FILE, load_or_create_join_secret
from folkmoot.ids import NodeId
from folkmoot.tests.support.postgres_server import PostgresServer
from folkmoot.trust.invite import Invite
from folkmoot.trust.keys import Identity, fingerprint
from folkmoot.trust.standing import StandingSettings

ONE, TWO = NodeId("ab" * 32), NodeId("cd" * 32)
HUGE = 10**25
Command = Callable[..., str]


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> BooksSettings:
    if request.param == "sqlite":
        return BooksSettings()
    server: PostgresServer = request.getfixturevalue("postgres")
    return BooksSettings(url=server.database())


@pytest.fixture
def state(settings: BooksSettings, tmp_path: Path) -> Path:
    """The state folder of a coordinator that is not running: it has two nodes, and one is Ada's."""
    identity = Identity.load_or_create(tmp_path / IDENTITY_FILE)
    load_or_create_join_secret(tmp_path)
    books = Books(settings, tmp_path, identity.public)
    books.listens("[::1]:7440")
    for node, name in ((ONE, "oak"), (TWO, "elm")):
        books.contributors.enrolled(node, name, "0.1", None, node.encode(), (1, 10**10)).result(60)
        books.states.changed(node, "ready", "all is there", 1_700_000_000)
    owed = [(ONE, Credit(1, 2, HUGE)), (TWO, Credit(3, 4, 5))]
    books._database.write(lambda connection: write_credits(connection, owed))
    StandingBook(books.standings, StandingSettings()).banned(TWO, "enough")
    books.close()
    return tmp_path


@pytest.fixture
def command(state: Path, settings: BooksSettings, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command of the coordinator's and returns what it prints."""

    def do(*arguments: str, code: int = 0) -> str:
        where = ["--state", str(state), *(["--books", settings.url] if settings.url else [])]
        assert run(["coordinator", *arguments, *where]) == code
        told = capsys.readouterr()
        return told.out if code == 0 else told.err

    return do


def test_an_invite_without_an_owner_is_the_coordinators(command: Command, state: Path) -> None:
    invite = Invite.parse(command("invite"))
    identity = Identity.load_or_create(state / IDENTITY_FILE)
    assert (invite.host, invite.port) == ("::1", 7440)
    assert invite.fingerprint == fingerprint(identity.public)
    assert invite.join_secret == load_or_create_join_secret(state)


def test_owners_invites_are_all_different(command: Command, state: Path) -> None:
    told: list[dict[str, Any]] = [json.loads(command("invite", "--owner", "Ada", "--json")) for _ in range(2)]
    secrets = {Invite.parse(one["invite"]).join_secret for one in told}
    assert len(secrets | {load_or_create_join_secret(state)}) == 3
    assert "no name" in command("invite", "--owner", "\n", code=2)
    assert "name the owner" in command("invite", "--public-name", "x", code=2)


@pytest.mark.parametrize("missing", [IDENTITY_FILE, JOIN_SECRET_FILE])
def test_an_invite_makes_no_key_and_no_secret(missing: str, command: Command, state: Path) -> None:
    (state / missing).unlink()
    there = sorted(state.iterdir())
    assert missing in command("invite", "--owner", "Ada", code=2)
    assert [path for path in sorted(state.iterdir()) if path.suffix == ".key"] == [
        path for path in there if path.suffix == ".key"
    ]
    assert not (state / missing).exists()


def test_an_invite_is_refused_when_the_books_are_another_coordinators(command: Command, state: Path) -> None:
    (state / IDENTITY_FILE).unlink()
    Identity.load_or_create(state / IDENTITY_FILE)
    assert "not those of the coordinator" in command("invite", code=2)


def test_credits_are_exact_in_every_form(command: Command) -> None:
    document = json.loads(command("credits", "--json"))
    assert [(one["contributor"], one["row_bytes"]) for one in document["contributors"]] == [
        (ONE, HUGE),
        (TWO, 5),
    ]
    rows = list(csv.DictReader(io.StringIO(command("credits", "--csv"))))
    assert [(row["contributor"], row["public_name"], row["row_bytes"]) for row in rows] == [
        (ONE, "oak", str(HUGE)),
        (TWO, "elm", "5"),
    ]
    assert command("credits").startswith(f"{ONE}  1 nodes, 1 results, 2 rows, ")
    assert "ask for one" in command("credits", "--csv", "--json", code=2)


def test_the_leaderboard_ranks(command: Command) -> None:
    document = json.loads(command("leaderboard", "--json"))
    assert document["object"] == "folkmoot.leaderboard"
    assert [(one["rank"], one["name"]) for one in document["contributors"]] == [(1, "oak"), (2, "elm")]
    first, second = command("leaderboard").splitlines()
    assert first.split()[:2] == ["1", "oak"]
    assert second.split()[:2] == ["2", "elm"]


def test_history_names_a_node_by_its_beginning(command: Command) -> None:
    assert command("history", "abab") == "2023-11-14 22:13:20  ready       all is there\n"
    document = json.loads(command("history", ONE, "--json"))
    assert document["changes"] == [
        {"since_unix_us": 1_700_000_000_000_000, "state": "ready", "reason": "all is there"}
    ]
    assert "0 known nodes" in command("history", "ee", code=2)


def test_an_order_names_a_node_by_its_beginning(
    command: Command, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.cli.orders.OBEYED_WITHIN_S", 0.0)
    assert "obeys when it starts" in command("admit", "cd", "--reason", "sorry")
    assert list((state / "orders").iterdir())


@pytest.mark.parametrize("arguments", [["credits"], ["leaderboard"], ["invite"], ["history", "ab"]])
def test_where_no_books_are_none_are_made(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["coordinator", *arguments, "--state", str(tmp_path)]) == 2
    assert "there are no books yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_orders_reach_the_books(
    state: Path, settings: BooksSettings, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folkmoot.cli.orders.OBEYED_WITHIN_S", 0.0)
    command("ban", "abab", "--reason", "why not")
    for _ in range(2):
        books = Books(settings, state, Identity.load_or_create(state / IDENTITY_FILE).public)
        standings = StandingBook(books.standings, StandingSettings())
        OrderBox(state).obey(standings)
        assert standings.refusal(ONE) == "this node is banned: why not"
        books.close()
