"""A process that is killed between evidence and quarantine lets nobody go: at its next start the evidence convicts; what the operator has
admitted since, what somebody else signed, and what is no evidence convict nobody."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from folkmoot.coordinator.audit import past_verdicts
from folkmoot.coordinator.audit.auditing import Auditing
from folkmoot.coordinator.audit.counters import AuditCounters
from folkmoot.coordinator.audit.evidence_keeper import EVIDENCE_FOLDER, EvidenceKeeper
from folkmoot.coordinator.audit.orders import Order, OrderBox, Wish
from folkmoot.coordinator.audit.past_verdicts import uphold
from folkmoot.coordinator.audit.settings import AuditSettings
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.ids import NodeId
from folkmoot.tests.support.asked_node import Misconduct
from folkmoot.tests.support.kept_books import books_in
from folkmoot.tests.support.killed_judge import COORDINATOR_KEY, NODE_KEY, judge_and_die
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.tests.support.running_auditor import KeptEntries, running_auditor
from folkmoot.trust.audit_statements import VerdictKind
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import LogEntry
from folkmoot.trust.standing import StandingSettings, Status

RULES = StandingSettings(probation_audits=1)


@dataclass
class Found:
    """A state folder with evidence that nothing has followed from yet."""

    folder: Path
    identity: Identity
    node: NodeId
    path: Path
    decided_s: int

    def book(self, clock_s: float | None = None) -> StandingBook:
        """How nodes stand, with nothing kept."""
        return StandingBook(None, RULES, *(() if clock_s is None else (lambda: clock_s,)))

    def uphold(self, standings: StandingBook, log: KeptEntries | None = None) -> int:
        """What a start does."""
        return uphold(EvidenceKeeper(self.folder, log), self.identity.public, standings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Identity, NodeId]:
    """Evidence, whose it is, and against whom."""
    with running_auditor(tmp_path_factory.mktemp("made")) as audits:
        node = audits.node(Misconduct.SCALED_OUTPUT)
        audits.auditor.watch(node.result(1, rows=4))
        audits.ended(1)
        (path,) = audits.evidence
        return path.read_bytes(), audits.identity, node.node


@pytest.fixture
def found(tmp_path: Path, made: tuple[bytes, Identity, NodeId]) -> Iterator[Found]:
    content, identity, node = made
    decided_s = Evidence.decode(content).verdict.decided_unix_s
    folder = tmp_path / EVIDENCE_FOLDER
    folder.mkdir()
    path = folder / f"{decided_s}-{node[:12]}-00-1.evidence"
    path.write_bytes(content)
    yield Found(tmp_path, identity, node, path, decided_s)


def test_a_killed_process_lets_nobody_go(tmp_path: Path) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=judge_and_die, args=(tmp_path,))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    identity, node = (Identity.load_or_create(tmp_path / name) for name in (COORDINATOR_KEY, NODE_KEY))
    assert list((tmp_path / EVIDENCE_FOLDER).glob("*.evidence"))
    for life in range(2):
        with books_in(tmp_path, identity.public) as books:
            standings = StandingBook(books.standings, RULES)
            before, entries = standings.of(node.node_id).status, KeptEntries()
            assert before is (Status.QUARANTINED if life else Status.MEMBER)
            Auditing(
                tmp_path, MemoryExperts(), identity, standings, AuditCounters(), AuditSettings(), entries
            )
            standing = standings.of(node.node_id)
            assert standing.status is Status.QUARANTINED
            assert "a result that it signed was wrong: found 20" in standing.reason
            assert standings.saved
            assert len(entries.entries) == 1 - life, "the log may not have heard of it either"


def test_it_is_said_once(found: Found) -> None:
    standings, log = found.book(), KeptEntries()
    assert [found.uphold(standings, log) for _ in range(2)] == [1, 0]
    evidence = Evidence.decode(found.path.read_bytes())
    assert log.entries == [LogEntry(evidence.verdict, evidence.verdict_signature)]
    assert standings.of(found.node).status is Status.QUARANTINED


def test_a_ban_and_an_operators_reason_stay(found: Found) -> None:
    standings = found.book()
    standings.banned(found.node, "enough")
    assert found.uphold(standings) == 0
    assert standings.of(found.node).reason == "enough"


@pytest.mark.parametrize("clock_s", [None, 10.0], ids=["now", "by a calendar that was set back"])
def test_whom_the_operator_admitted_is_not_convicted_again(found: Found, clock_s: float | None) -> None:
    with books_in(found.folder) as books:
        standings = StandingBook(books.standings, RULES, *(() if clock_s is None else (lambda: clock_s,)))
        found.uphold(standings)
        OrderBox(found.folder).place(Order(Wish.ADMIT, found.node, "it was repaired"))
        assert OrderBox(found.folder).obey(standings) == 1
    for passes in (0, 1, 0):
        with books_in(found.folder) as books:
            standings = StandingBook(books.standings, RULES)
            assert found.uphold(standings) == 0
            assert standings.of(found.node).serves
            for _ in range(passes):
                standings.audit_passed(found.node)


def test_a_verdict_after_the_word_counts(found: Found) -> None:
    standings = found.book(found.decided_s - 1.0)
    standings.banned(found.node, "enough")
    standings.admitted(found.node, "sorry")
    assert found.uphold(standings) == 1


def test_an_order_that_waits_comes_after_it(found: Found) -> None:
    OrderBox(found.folder).place(Order(Wish.ADMIT, found.node, "it was repaired"))
    standings = found.book()
    Auditing(found.folder, MemoryExperts(), found.identity, standings, AuditCounters(), AuditSettings())
    assert standings.of(found.node).reason == "it was repaired"


def test_it_holds_where_nothing_is_audited(found: Found) -> None:
    standings = found.book()
    settings = AuditSettings(enabled=False)
    Auditing(found.folder, MemoryExperts(), found.identity, standings, AuditCounters(), settings)
    assert standings.of(found.node).status is Status.QUARANTINED


def test_nobody_elses_verdict_counts(found: Found) -> None:
    standings = found.book()
    assert uphold(EvidenceKeeper(found.folder), Identity.generate().public, standings) == 0
    content = found.path.read_bytes()
    for at in (-1, -64):
        found.path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at:][1:])
        assert found.uphold(standings) == 0, "the signature is not good"
    evidence = Evidence.decode(content)
    other = replace(evidence.verdict, node=Identity.generate().public)
    found.path.write_bytes(replace(evidence, verdict=other).encode())
    assert found.uphold(standings) == 0
    assert not standings.records()


def test_a_verdict_that_clears_convicts_nobody(found: Found) -> None:
    evidence = Evidence.decode(found.path.read_bytes())
    verdict = replace(evidence.verdict, kind=VerdictKind.CLEARED)
    signed = replace(evidence, verdict=verdict, verdict_signature=found.identity.sign(verdict.encode()))
    found.path.write_bytes(signed.encode())
    assert found.uphold(found.book()) == 0


def test_what_is_no_evidence_is_passed_over(found: Found, caplog: pytest.LogCaptureFixture) -> None:
    folder = found.path.parent
    (folder / "0-empty.evidence").write_bytes(b"")
    (folder / "1-noise.evidence").write_bytes(bytes(10_000))
    (folder / "2-folder.evidence").mkdir()
    (folder / "3-readme.txt").write_text("kept by me")
    (folder / "4-nowhere.evidence").symlink_to(folder / "nowhere")
    assert found.uphold(found.book()) == 1
    assert caplog.text.count("cannot be read as evidence") == 2


def test_of_very_many_the_newest_are_read(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_verdicts, "MOST_FILES", 2)
    for number in range(2):
        (found.path.parent / f"{number}-old.evidence").write_bytes(b"")
    assert found.uphold(found.book()) == 1
    for number in range(2):
        (found.path.parent / f"{found.decided_s + 1}-{number}.evidence").write_bytes(b"")
    assert found.uphold(found.book()) == 0


def test_there_may_be_no_folder(tmp_path: Path) -> None:
    assert uphold(EvidenceKeeper(tmp_path), bytes(32), StandingBook(None, RULES)) == 0
