"""Verdicts go on public record: what the log is told is what the evidence says, a bias without evidence is told as what it is, and a
log that fails neither stops a conviction nor stays unsaid."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from folkmoot.errors import CapacityError
from folkmoot.tests.support.asked_node import Misconduct
from folkmoot.tests.support.running_auditor import running_auditor
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.bias_evidence import BiasEvidence
from folkmoot.trust.evidence import Evidence
from folkmoot.trust.log_entries import LogEntry


def test_a_verdict_is_logged_as_the_evidence_has_it(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node, honest = audits.node(Misconduct.SCALED_OUTPUT), audits.node()
        audits.auditor.watch(honest.result(seed=1))
        audits.auditor.watch(node.result(1, rows=4, seed=1))
        audits.ended(2)
        (path,), (entry,) = audits.evidence, audits.log.entries
        evidence = Evidence.decode(path.read_bytes())
        assert entry == LogEntry(evidence.verdict, evidence.verdict_signature)
        entry.verify(audits.identity.public)
        assert isinstance(entry.statement, VerdictStatement)
        assert entry.statement.kind == VerdictKind.WRONG
        assert entry.statement.node == node.identity.public


def test_a_bias_is_logged_as_its_evidence_says(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node(Misconduct.TILTED_OUTPUT)
        for seed in range(40):
            audits.auditor.watch(node.result(0, rows=8, seed=seed))
        audits.until(lambda _: not audits.standings.of(node.node).serves)
        (path,), (entry,) = audits.evidence, audits.log.entries
        evidence = BiasEvidence.decode(path.read_bytes())
        assert entry == LogEntry(evidence.verdict, evidence.verdict_signature)
        entry.verify(audits.identity.public)
        statement = entry.statement
        assert isinstance(statement, VerdictStatement)
        assert statement.kind == VerdictKind.BIASED
        assert statement.node == node.identity.public
        assert statement.error_millionths > statement.tolerance_millionths > 0


def test_a_log_that_fails_stops_no_quarantine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), running_auditor(tmp_path) as audits:
        audits.log.error = CapacityError("no room")
        node = audits.node(Misconduct.SCALED_OUTPUT)
        audits.auditor.watch(node.result(1, rows=4, seed=1))
        audits.until(lambda _: not audits.standings.of(node.node).serves)
        assert len(audits.evidence) == 1
    assert "a verdict is not in the public log: no room" in caplog.text
