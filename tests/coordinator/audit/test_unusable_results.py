"""Signed NaN, infinity and numbers beyond all models are proven like any other wrong result, with evidence that a stranger can check; where
honest float32 leaves its range, and where nobody signed, nobody is accused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.judge import Judge
from folkmoot.coordinator.dispatch.pairs import Pairs
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.errors import ModelError
from folkmoot.kernels.formats import DTYPES
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.running_auditor import RunningAuditor, running_auditor
from folkmoot.trust.evidence_check import Outcome, PublicModel, check_bytes
from folkmoot.trust.standing import Status

NUMBERS = [math.nan, math.inf, -math.inf, 1e13]


def signed(
    audits: RunningAuditor, node: AskedNode, number: float | None, scale: float = 1.0, rows: int = 5
) -> VerifiedResult:
    """A result of which one number of the last row is another; None for none."""
    hidden, experts, gates = audits.model.routing(rows, seed=3, top_k=2)
    hidden = (hidden * scale).to(DTYPES[audits.model.manifest.dtype])
    output = audits.model.answer(0, hidden, experts, gates).clone()
    if number is not None:
        output[-1, 7] = number
    return node._signed(0, hidden, Pairs.of(experts.numpy(), gates.numpy()), output, 1000)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signed_number_that_no_model_has_is_a_verdict(tmp_path: Path, number: float) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node()
        audits.auditor.watch_unusable(signed(audits, node, number))
        assert audits.ended(1).outcomes == {"wrong": 1}
        assert audits.standings.of(node.node).status is Status.QUARANTINED
        (path,) = audits.evidence
        model = PublicModel(audits.model.manifest.encoded, CanonicalExperts(audits.model).public)
        steps = list(check_bytes(path.read_bytes(), model, audits.identity.public))
        assert steps[-1].outcome is Outcome.PROVEN, steps
        audits.auditor.watch_unusable(signed(audits, node, number))
        audits.auditor.watch(audits.node().result())
        assert audits.ended(2).outcomes == {"wrong": 1, "passed": 1}, "it is out: nothing of it is looked at"


@pytest.mark.parametrize("scale", [1e19, 1e25, 1e30])
def test_where_honest_sums_overflow_nobody_is_accused(tmp_path: Path, scale: float) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node()
        result = signed(audits, node, None, scale)
        audits.auditor.watch_unusable(result)
        assert audits.ended(1).outcomes == {"cleared": 1}
        audits.auditor.close()
        assert audits.standings.of(node.node).serves
        assert not audits.evidence


def test_large_and_right_is_right(tmp_path: Path) -> None:
    with running_auditor(tmp_path) as audits:
        node = audits.node()
        result = signed(audits, node, None, 1e9)
        audits.auditor.watch_unusable(result)
        assert audits.ended(1).outcomes == {"cleared": 1}
        audits.auditor.close()
        assert not audits.evidence


def test_of_very_many_rows_as_many_as_one_audit_has_are_looked_at(tmp_path: Path) -> None:
    with running_auditor(tmp_path, most_rows=8) as audits:
        node = audits.node()
        hidden, experts, gates = audits.model.routing(100, seed=3, top_k=2)
        output = torch.full((100, audits.model.manifest.hidden), math.nan)
        pairs = Pairs.of(experts.numpy(), gates.numpy())
        audits.auditor.watch_unusable(node._signed(0, hidden, pairs, output, 1000))
        assert audits.ended(1).outcomes == {"wrong": 1}


def test_weights_that_cannot_be_read_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ModelError("the disk is gone")

    with running_auditor(tmp_path) as audits:
        with monkeypatch.context() as failing:
            failing.setattr(Judge, "recompute", broken)
            audits.auditor.watch_unusable(signed(audits, audits.node(), math.nan))
            assert audits.ended(1).outcomes == {"abandoned": 1}
        assert audits.auditor._inbox.reserve(64 << 20), "its memory is given back"


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    with running_auditor(tmp_path, memory_bytes=1 << 16) as audits:
        node = audits.node()
        audits.auditor.watch_unusable(signed(audits, node, math.nan, rows=1000))
        assert audits.until(lambda totals: totals.dropped == 1).outcomes == {}
