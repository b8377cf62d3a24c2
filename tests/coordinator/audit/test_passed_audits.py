"""What nodes have passed outlives a restart; what cannot be read, or is another model's, counts as nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from folkmoot.coordinator.audit.passed_audits import PASSED_FILE, PassedAudits
from folkmoot.ids import ExpertKey
from folkmoot.tests.support.running_auditor import running_auditor
from folkmoot.trust.audit_policy import AuditSubject
from folkmoot.trust.keys import Identity

MODEL = bytes(32)
SUBJECTS = {
    AuditSubject(Identity.generate().node_id, ExpertKey(3, 7), "0.1.0"): 51,
    AuditSubject(Identity.generate().node_id, ExpertKey(0, 0), 'a "version"'): 2,
}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    kept = PassedAudits(tmp_path, MODEL)
    assert kept.load() == {}
    kept.save(SUBJECTS)
    assert PassedAudits(tmp_path, MODEL).load() == SUBJECTS
    assert PassedAudits(tmp_path, bytes(31) + b"x").load() == {}, "another model's experts are others"
    assert (tmp_path / PASSED_FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "folkmoot-passed-audits/1"}', b"\xff"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PASSED_FILE).write_bytes(content)
    assert PassedAudits(tmp_path, MODEL).load() == {}


def test_an_auditor_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node()
        for seed in range(5):
            audits.auditor.watch(node.result(seed=seed))
        audits.ended(5)
        audits.auditor.close()
        passed = PassedAudits(tmp_path, audits.model.manifest.digest).load()
    assert {subject.node for subject in passed} == {node.node}
    assert sum(passed.values()) >= 5
