"""How nodes stand is on disk before anybody is told, survives the process's end, and is never forgotten by a damaged file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from folkmoot.coordinator.audit.standing_book import STANDING_FILE, StandingBook, StandingFileError
from folkmoot.ids import NodeId
from folkmoot.trust.standing import StandingSettings, Status

NODE, OTHER = NodeId("ab" * 32), NodeId("cd" * 32)
RULES = StandingSettings(probation_audits=3, strikes=2)


def book(folder: Path, now_s: float = 100.0) -> StandingBook:
    return StandingBook(folder, RULES, lambda: now_s)


def test_a_verdict_outlives_the_process(tmp_path: Path) -> None:
    before = book(tmp_path)
    before.met(NODE, "bad one")
    before.convicted(NODE, "a result was wrong")
    after = book(tmp_path, now_s=500.0)
    standing = after.of(NODE)
    assert (standing.status, standing.reason, standing.since_s) == (
        Status.QUARANTINED,
        "a result was wrong",
        100.0,
    )
    assert after.records()[NODE].name == "bad one"
    assert after.refusal(NODE) == "this node is quarantined: a result was wrong"
    assert after.refusal(OTHER) is None


def test_subscribers_are_told_once_it_is_kept(tmp_path: Path) -> None:
    standings = book(tmp_path)
    told: list[Status] = []
    standings.subscribe(lambda node: told.append(book(tmp_path).of(node).status))
    standings.convicted(NODE, "wrong")
    standings.banned(NODE, "enough")
    standings.convicted(NODE, "wrong again")
    standings.admitted(NODE, "sorry")
    assert told == [Status.QUARANTINED, Status.BANNED, Status.PROBATION]


def test_probation_ends_with_enough_audits(tmp_path: Path) -> None:
    standings = book(tmp_path)
    for _ in range(2):
        standings.audit_passed(NODE)
    assert standings.of(NODE).status is Status.PROBATION
    standings.save()
    again = book(tmp_path)
    again.audit_passed(NODE)
    assert again.of(NODE).status is Status.MEMBER
    assert book(tmp_path).of(NODE).status is Status.MEMBER


def test_too_many_strikes_put_a_member_back_on_probation(tmp_path: Path) -> None:
    standings = book(tmp_path)
    for _ in range(3):
        standings.audit_passed(NODE)
    standings.struck(NODE, "late")
    assert standings.of(NODE).status is Status.MEMBER
    assert len(book(tmp_path).of(NODE).strikes_s) == 1
    standings.struck(NODE, "late")
    assert standings.of(NODE).status is Status.PROBATION
    assert "late" in standings.of(NODE).reason


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
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STANDING_FILE).write_bytes(content)
    with pytest.raises(StandingFileError, match="cannot be read") as caught:
        book(tmp_path)
    assert "convicted nodes could come back" in caught.value.advice


def test_a_full_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standings = book(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patched:
        patched.setattr("folkmoot.coordinator.audit.standing_book.write_private", full)
        standings.convicted(NODE, "wrong")
    before = standings.saved
    assert not standings.of(NODE).serves
    standings.save()
    assert (before, standings.saved) == (False, True)
    assert not book(tmp_path).of(NODE).serves


def test_the_file_is_readable_by_people(tmp_path: Path) -> None:
    book(tmp_path).banned(NODE, "enough")
    document = json.loads((tmp_path / STANDING_FILE).read_text())
    assert document["nodes"][NODE]["status"] == "banned"
    assert document["nodes"][NODE]["reason"] == "enough"
