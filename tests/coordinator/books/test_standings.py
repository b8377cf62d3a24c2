"""How nodes stand is durable before anybody is told, survives the process's end, is never read from what makes no sense, and what
could not be written is written later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from folkmoot.coordinator.audit import standing_book
from folkmoot.coordinator.audit.standing_book import Record, StandingBook
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.errors import BooksDamagedError
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.standings import all_standings
from folkmoot.coordinator.books.tables import standings as table
from folkmoot.ids import NodeId
from folkmoot.tests.support.kept_books import full_disk
from folkmoot.trust.standing import StandingSettings, Status

OpenBooks = Callable[[], Books]
NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
RULES = StandingSettings(probation_audits=3, strikes=2)


@pytest.fixture
def durable(settings: BooksSettings, tmp_path: Path) -> Callable[[], dict[NodeId, Record]]:
    """What another connection sees."""

    def look() -> dict[NodeId, Record]:
        database = Database(settings, tmp_path)
        try:
            return database.read(all_standings)
        finally:
            database.close()

    return look


def book(books: Books, now_s: float = 100.0) -> StandingBook:
    return StandingBook(books.standings, RULES, lambda: now_s)


def test_a_verdict_outlives_the_process(open_books: OpenBooks) -> None:
    books = open_books()
    before = book(books)
    before.met(NODE, "bad one")
    before.convicted(NODE, "a result was \x00 wrong")
    books.close()
    after = book(open_books(), now_s=500.0)
    standing = after.of(NODE)
    assert (standing.status, standing.reason, standing.since_s) == (
        Status.QUARANTINED,
        "a result was \ufffd wrong",
        100.0,
    )
    assert after.records()[NODE].name == "bad one"
    assert after.refusal(NODE) == "this node is quarantined: a result was \ufffd wrong"
    assert after.refusal(OTHER) is None


def test_subscribers_are_told_once_it_is_durable(
    books: Books, durable: Callable[[], dict[NodeId, Record]]
) -> None:
    standings = book(books)
    told: list[Status] = []
    standings.subscribe(lambda node: told.append(durable()[node].standing.status))
    standings.convicted(NODE, "wrong")
    standings.banned(NODE, "enough")
    standings.convicted(NODE, "wrong again")
    standings.admitted(NODE, "sorry")
    assert told == [Status.QUARANTINED, Status.BANNED, Status.PROBATION]


def test_probation_ends_with_enough_audits(open_books: OpenBooks) -> None:
    books = open_books()
    standings = book(books)
    for _ in range(2):
        standings.audit_passed(NODE)
    assert standings.of(NODE).status is Status.PROBATION
    books.close()
    books = open_books()
    again = book(books)
    again.audit_passed(NODE)
    assert again.of(NODE).status is Status.MEMBER
    books.close()
    assert book(open_books()).of(NODE).status is Status.MEMBER


def test_too_many_strikes_put_a_member_back_on_probation(
    books: Books, durable: Callable[[], dict[NodeId, Record]]
) -> None:
    standings = book(books)
    for _ in range(3):
        standings.audit_passed(NODE)
    standings.struck(NODE, "late")
    assert standings.of(NODE).status is Status.MEMBER
    assert len(durable()[NODE].standing.strikes_s) == 1
    standings.struck(NODE, "late")
    assert standings.of(NODE).status is Status.PROBATION
    assert "late" in durable()[NODE].standing.reason


@pytest.mark.parametrize(
    "column", [{"status": "praised"}, {"strikes": "["}, {"strikes": '{"a": 1}'}, {"strikes": "1"}]
)
def test_what_makes_no_sense_is_refused(
    column: dict[str, str], settings: BooksSettings, open_books: OpenBooks, tmp_path: Path
) -> None:
    books = open_books()
    book(books).convicted(NODE, "wrong")
    books.close()
    database = Database(settings, tmp_path)
    database.write_beside(lambda connection: connection.execute(update(table).values(**column)))
    database.close()
    with pytest.raises(BooksDamagedError, match="makes no sense") as caught:
        open_books()
    assert "convicted nodes could come back" in caught.value.advice


def test_a_full_disk_keeps_nobody_in_and_is_tried_again(
    books: Books,
    durable: Callable[[], dict[NodeId, Record]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    standings = book(books)
    with full_disk(monkeypatch):
        standings.convicted(NODE, "wrong")
        assert not standings.of(NODE).serves
        unsaved = not standings.saved
        assert unsaved
        assert "not kept yet" in caplog.text
        assert durable() == {}
    deadline_s = time.monotonic() + 60
    while not standings.saved:
        assert time.monotonic() < deadline_s
        standings.save()
    assert not durable()[NODE].standing.serves


def test_mere_newcomers_are_forgotten_first(
    open_books: OpenBooks, monkeypatch: pytest.MonkeyPatch, durable: Callable[[], dict[NodeId, Record]]
) -> None:
    monkeypatch.setattr(standing_book, "MOST_NEWCOMERS", 3)
    books = open_books()
    standings = book(books)
    standings.convicted(NODE, "wrong")
    for number in range(4):
        standings.met(NodeId(f"{number:064x}"), "new")
    books.close()
    assert NODE in durable()
    assert len(durable()) < 4


def test_strikes_lapse_whatever_becomes_of_the_calendar(open_books: OpenBooks) -> None:
    books, calendar, passed = open_books(), [1e6], [0.0]
    rules = StandingSettings(strikes=3, strike_window_s=100.0)
    standings = StandingBook(books.standings, rules, lambda: calendar[0], lambda: passed[0])
    for set_to, seconds in ((1e6, 0.0), (2e6, 50.0), (10.0, 140.0), (10.0, 145.0)):
        calendar[0], passed[0] = set_to, seconds
        standings.struck(NODE, "late")
        assert "faults within" not in standings.of(NODE).reason or seconds == 145.0
    assert standings.of(NODE).reason.startswith("3 faults within")
    standings.struck(NODE, "late")
    books.close()
    after = StandingBook(open_books().standings, rules, lambda: 10.0, lambda: 0.0)
    assert after.of(NODE).strikes_s == (10.0,), "none lies in the future"


def test_that_a_node_was_admitted_is_kept(open_books: OpenBooks) -> None:
    books = open_books()
    standings = book(books, 100.0)
    standings.convicted(NODE, "wrong")
    standings.admitted(NODE, "sorry")
    standings.met(NODE, "oak")
    books.close()
    after = book(open_books(), 500.0)
    assert after.of(NODE).admitted_s == 100.0
    assert after.records()[NODE].worth_keeping, "or its old evidence would convict it again"
