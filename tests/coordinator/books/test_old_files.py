"""What was kept in files before there were books is taken over once, whatever happens meanwhile; what must not be passed over when it
is damaged is refused, and so is nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.coordinator.books import old_files
from folkmoot.coordinator.books.books import Books
from folkmoot.coordinator.books.credit import Credit
from folkmoot.coordinator.books.old_files import (
    CREDIT_FILE,
    PLACEMENT_FILE,
    STANDING_FILE,
    TAKEN_SUFFIX,
    OldFileError,
)
from folkmoot.coordinator.books.placement_memory import Remembered
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.standing import StandingSettings, Status

OpenBooks = Callable[[], Books]
ONE, TWO = NodeId("ab" * 32), NodeId("cd" * 32)
MODEL = MemoryExperts()
CREDITS = {"format": "folkmoot-credits/1", "nodes": {ONE: [3, 12, (1 << 64) - 1], TWO: [1, 1, 1]}}
BANNED = {"name": "bad", "status": "banned", "reason": "enough", "since": 7.5, "passed": 0, "strikes": [1.5]}
STANDINGS = {"format": "folkmoot-standing/1", "nodes": {ONE: BANNED}}
PLACEMENT = {
    "format": "folkmoot-placement/1",
    "manifest": MODEL.manifest.digest.hex(),
    "nodes": {ONE: [12345, {"0": [1], "1": [3]}]},
}


def put(folder: Path) -> None:
    for name, document in ((CREDIT_FILE, CREDITS), (STANDING_FILE, STANDINGS), (PLACEMENT_FILE, PLACEMENT)):
        (folder / name).write_text(json.dumps(document))


def check(books: Books) -> None:
    assert books.receipts.owed() == {ONE: Credit(3, 12, (1 << 64) - 1), TWO: Credit(1, 1, 1)}
    standing = StandingBook(books.standings, StandingSettings()).of(ONE)
    assert (standing.status, standing.reason, standing.since_s, standing.strikes_s) == (
        Status.BANNED,
        "enough",
        7.5,
        (1.5,),
    )
    held = frozenset({ExpertKey(0, 1), ExpertKey(1, 3)})
    assert books.placement(MODEL.manifest).load() == {ONE: Remembered(12345, held)}


def test_files_are_taken_over_once(open_books: OpenBooks, tmp_path: Path) -> None:
    put(tmp_path)
    books = open_books()
    check(books)
    books.close()
    for name in (CREDIT_FILE, STANDING_FILE, PLACEMENT_FILE):
        assert not (tmp_path / name).exists()
        assert (tmp_path / (name + TAKEN_SUFFIX)).exists()
    # A process that was ended before it could rename them.
    put(tmp_path)
    (tmp_path / CREDIT_FILE).write_text(json.dumps({**CREDITS, "nodes": {TWO: [9, 9, 9]}}))
    books = open_books()
    check(books)
    assert not (tmp_path / CREDIT_FILE).exists()


def document(**nodes: object) -> bytes:
    return json.dumps({"format": "folkmoot-credits/1", "nodes": nodes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "folkmoot-credits/2", "nodes": {}}',
        document(**{ONE: [1, 2]}),
        document(**{ONE: [1, 2, -3]}),
        document(**{ONE: [1, 2, 3.0]}),
        document(**{ONE: [1, True, 3]}),
        document(**{ONE: [1, 2, 1 << 64]}),
        document(**{ONE: "abc"}),
        document(**{ONE.upper(): [1, 2, 3]}),
        document(ab=[1, 2, 3]),
        b"[" * 100_000,
    ],
    ids=range(13),
)
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_damaged_credits_are_refused(content: bytes, open_books: OpenBooks, tmp_path: Path) -> None:
    (tmp_path / CREDIT_FILE).write_bytes(content)
    with pytest.raises(OldFileError) as caught:
        open_books()
    assert caught.value.advice
    assert (tmp_path / CREDIT_FILE).read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format":"folkmoot-standing/1","nodes":{"ab":{}}}',
        b'{"format":"folkmoot-standing/2"}',
    ],
)
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_damaged_standings_are_refused(content: bytes, open_books: OpenBooks, tmp_path: Path) -> None:
    (tmp_path / STANDING_FILE).write_bytes(content)
    with pytest.raises(OldFileError, match="quarantined"):
        open_books()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace("ab" * 32, "zz" * 32),
        lambda text: text.replace("12345", "null"),
        lambda text: text.replace("[3]", "3"),
    ],
)
@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_damaged_placement_is_passed_over(
    change: Callable[[str], str], open_books: OpenBooks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / PLACEMENT_FILE).write_text(change(json.dumps(PLACEMENT)))
    assert open_books().placement(MODEL.manifest).load() == {}
    assert "placed anew" in caplog.text


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 60), st.sampled_from(sorted(old_files._TAKERS)))
def test_whatever_is_in_a_file_raises_nothing_else(tmp_path: Path, tail: bytes, kept: int, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(document(**{ONE: [1, 2, 3]})[:kept] + tail)
    with contextlib.suppress(OldFileError):
        old_files._TAKERS[name](path)
