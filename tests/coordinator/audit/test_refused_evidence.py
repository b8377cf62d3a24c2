"""A disk, or a log, that refuses saves no proven cheat: it is out at once and answers go back, and its evidence and its entry in the
public log follow when they can, within bounded memory."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from folkmoot.coordinator.audit import evidence_keeper
from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.evidence_keeper import EvidenceKeeper
from folkmoot.coordinator.audit.private_files import write_private
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.errors import CapacityError
from folkmoot.ids import NodeId
from folkmoot.tests.support.asked_node import Misconduct
from folkmoot.tests.support.kept_books import books_in, full_disk
from folkmoot.tests.support.running_auditor import KeptEntries, running_auditor
from folkmoot.tests.support.waiting_step import WaitingStep, covered
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.evidence_check import Outcome, PublicModel, check_bytes
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import LogEntry
from folkmoot.trust.signed_frame import MalformedEvidenceError
from folkmoot.trust.standing import Status

PATIENCE_S = 60.0


class Disk:
    """Takes evidence, or has no room."""

    def __init__(self) -> None:
        self.full = True
        self.refused = 0

    def write(self, path: Path, content: bytes) -> None:
        """What `write_private` is while this is the disk."""
        if self.full:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_private(path, content)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(evidence_keeper, "write_private", disk.write)
    monkeypatch.setattr(evidence_keeper, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(evidence_keeper, "LONGEST_PAUSE_S", 0.02)
    yield disk


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def verdict(identity: Identity, number: int = 0) -> LogEntry:
    statement = VerdictStatement(
        identity.public, bytes(32), bytes(32), bytes(32), bytes(32), VerdictKind.WRONG, number, 1, 1
    )
    return LogEntry.signed(statement, identity)


@pytest.mark.parametrize(
    "does", [(Misconduct.SCALED_OUTPUT,), (Misconduct.TILTED_OUTPUT,)], ids=["a row", "a bias"]
)
def test_a_full_disk_saves_nobody_and_the_evidence_follows(
    tmp_path: Path, disk: Disk, does: tuple[Misconduct, ...]
) -> None:
    with running_auditor(tmp_path) as audits:
        node, told = audits.node(*does), list[NodeId]()
        audits.auditor.consequences.on_convicted = told.append
        for seed in range(40):
            audits.auditor.watch(node.result(1, rows=8, seed=seed))
        assert audits.until(lambda totals: "wrong" in totals.outcomes)
        assert audits.standings.of(node.node).status is Status.QUARANTINED
        assert told == [node.node], "whoever goes back was told at once"
        until(lambda: disk.refused > 2)
        assert (audits.evidence, audits.log.entries) == ([], []), "nobody hears what cannot be shown"
        disk.full = False
        until(lambda: audits.log.entries)
        (path,) = audits.evidence
        model = PublicModel(audits.model.manifest.encoded, CanonicalExperts(audits.model).public)
        steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
        assert steps[-1].outcome is Outcome.PROVEN, steps
        until(lambda: not audits.keeper.waiting)


def test_an_audited_answer_goes_on_with_others(tmp_path: Path, disk: Disk) -> None:
    with running_auditor(tmp_path) as audits:
        cheat, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        steps = [WaitingStep(), WaitingStep()]
        told: list[NodeId] = []
        audits.auditor.consequences.on_convicted = told.append
        for node, step in zip((cheat, honest), steps, strict=True):
            audits.auditor.watch(covered(node.result(rows=3), step))
        steps[1].wait(passes=1)
        audits.until(lambda totals: totals.outcomes == {"wrong": 1, "passed": 1})
        assert told == [cheat.node], "its answers go back, and come to others"
        assert (steps[0].passes, steps[0].errors) == (0, []), "it neither counts nor fails"


def test_books_and_disk_that_are_both_full_save_nobody(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with books_in(tmp_path) as books, running_auditor(tmp_path) as audits:
        standings = StandingBook(books.standings, audits.standings.settings)
        audits.auditor.consequences._standings = standings
        node = audits.node(Misconduct.SCALED_OUTPUT)
        with full_disk(monkeypatch):
            audits.auditor.watch(node.result(rows=3))
            audits.ended(1)
            assert not standings.of(node.node).serves
            assert not standings.saved
        disk.full = False
        until(lambda: audits.evidence)

        def is_saved() -> bool:
            standings.save()
            return standings.saved

        until(is_saved)


def test_a_log_that_takes_nothing_is_tried_again(tmp_path: Path, disk: Disk) -> None:
    disk.full = False
    entries, identity = KeptEntries(), Identity.generate()
    entries.error = CapacityError("no room")
    keeper = EvidenceKeeper(tmp_path, entries)
    path = keeper.keep("one", b"evidence", verdict(identity))
    assert path.read_bytes() == b"evidence"
    until(lambda: keeper.waiting)
    entries.error = None
    until(lambda: entries.entries == [verdict(identity)])
    keeper.close()
    assert entries.entries == [verdict(identity)], "once"


def test_an_end_tries_once_more(tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    identity = Identity.generate()
    for number in range(2):
        disk.full = True
        keeper = EvidenceKeeper(tmp_path / str(number))
        path = keeper.keep("one", b"evidence", verdict(identity))
        disk.full = bool(number)
        keeper.close()
        keeper.close()
        assert path.exists() == (not number)
        assert ("evidence is lost" in caplog.text) == bool(number)


def test_what_waits_is_bounded(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_keeper, "MOST_WAITING_BYTES", 100)
    keeper, identity = EvidenceKeeper(tmp_path), Identity.generate()
    with caplog.at_level(logging.ERROR):
        paths = [keeper.keep(str(number), bytes(40), verdict(identity, number)) for number in range(3)]
    assert keeper.waiting == 2
    assert f"given up, as too much waits for the disk already: {paths[2]}" in caplog.text
    disk.full = False
    until(lambda: not keeper.waiting)
    assert [path.exists() for path in paths] == [True, True, False]
    disk.full = True
    keeper.keep("large", bytes(200), verdict(identity, 3))
    assert keeper.waiting == 1, "one alone is always kept"
    disk.full = False
    keeper.close()


def test_what_fits_no_file_is_a_verdict_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def too_large(_: Evidence) -> bytes:
        raise MalformedEvidenceError("evidence is over the cap")

    monkeypatch.setattr(Evidence, "encode", too_large)
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.SCALED_OUTPUT)
        audits.auditor.watch(node.result(rows=3))
        audits.ended(1)
        assert audits.standings.of(node.node).status is Status.QUARANTINED
    assert "stands without evidence: evidence is over the cap" in caplog.text


def test_a_log_that_ends_meanwhile_stops_nothing(tmp_path: Path, disk: Disk) -> None:
    class Cancelling:
        """A log that ends before it comes to an entry."""

        def append(self, entry: LogEntry) -> Future[int]:
            """Takes it, and does nothing with it."""
            future: Future[int] = Future()
            future.cancel()
            return future

    disk.full = False
    keeper = EvidenceKeeper(tmp_path, Cancelling())
    assert keeper.keep("one", b"", verdict(Identity.generate())).exists()
    assert not keeper.waiting
    keeper.close()
