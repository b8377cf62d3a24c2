"""SIGKILL to a process that keeps books, at random points: whatever it had told anybody is there, receipts and credits balance, and it
opens again."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlalchemy import select

from folkmoot.coordinator.audit.standing_book import Record
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.database import Database
from folkmoot.coordinator.books.settings import BooksSettings
from folkmoot.coordinator.books.standings import all_standings
from folkmoot.coordinator.books.tables import tickets
from folkmoot.ids import NodeId
from folkmoot.tests.support.book_keeper import COORDINATOR, NODES, keep, node_id, told_in
from folkmoot.tests.support.kept_books import accounts_of, owed

SEED = 20_261
PATIENCE_S = 60.0
LONGEST_S = 0.15


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def whole_lines(folder: Path, life: int) -> list[str]:
    """What a process has told in one life."""
    told = told_in(folder, life)
    return told.read_text().rpartition("\n")[0].splitlines() if told.exists() else []


@contextmanager
def keeping(folder: Path, settings: BooksSettings, life: int) -> Iterator[BaseProcess]:
    """A process that keeps books, and is killed at the end, whatever comes in between."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["folkmoot.tests.support.book_keeper"])
    keeper = context.Process(target=keep, args=(folder, settings.url, life), daemon=True)
    keeper.start()
    try:
        yield keeper
    finally:
        keeper.kill()
        keeper.join()


def check_books(settings: BooksSettings, folder: Path, told: list[str]) -> None:
    sessions = accounts_of(folder, settings)
    numbers = {one.session: one.receipt.receipt.number for one in sessions}
    sums: dict[NodeId, Credit] = {}
    for one in sessions:
        sums[one.node] = sums.get(one.node, Credit()) + one.credit
    assert sums == owed(folder, settings)
    database = Database(settings, folder)
    query = select(tickets.c.node, tickets.c.issued_unix_s)
    kept = {row.node: row.issued_unix_s for row in database.read(lambda one: one.execute(query).all())}
    standings: dict[NodeId, Record] = database.read(all_standings)
    database.close()
    bans: dict[str, tuple[int, int]] = {}
    for line in told:
        kind, *fields = line.split()
        match kind:
            case "receipt":
                assert numbers[fields[0]] >= int(fields[1])
            case "ticket":
                assert kept[node_id(int(fields[0]))] >= int(fields[1])
            case "ban":
                bans[fields[0]] = (int(fields[1]), int(fields[2]))
    for number, when in bans.items():
        life, turn = standings[node_id(int(number))].standing.reason.split()
        assert (int(life), int(turn)) >= when


def check(points: int, settings: BooksSettings, folder: Path) -> None:
    draw = random.Random(SEED)
    Books(settings, folder, COORDINATOR.public).close()
    heard: list[str] = []
    for life in range(points):
        with keeping(folder, settings, life) as keeper:
            until(lambda: whole_lines(folder, life) or not keeper.is_alive())  # noqa: B023 - used at once
            time.sleep(draw.uniform(0, LONGEST_S))
            assert keeper.is_alive(), f"it ended by itself: {keeper.exitcode}"
        told = whole_lines(folder, life)
        assert told, "it kept books until it was killed"
        check_books(settings, folder, told)
        heard += told
    check_books(settings, folder, heard)
    assert len(accounts_of(folder, settings)) <= points * NODES, "nobody made the others"


@pytest.mark.timeout(600)
def test_a_few_kills_lose_nothing_that_was_told(settings: BooksSettings, tmp_path: Path) -> None:
    check(6, settings, tmp_path)


@pytest.mark.books
@pytest.mark.timeout(3600)
def test_200_kills_lose_nothing_that_was_told(settings: BooksSettings, tmp_path: Path) -> None:
    check(200, settings, tmp_path)
