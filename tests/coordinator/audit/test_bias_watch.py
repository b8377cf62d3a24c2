"""What is kept of rows that may show a bias is bounded, and what has the fewest rows for its bytes gives way, never what was just added
to; who is being weighed is not forgotten meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from folkmoot.coordinator.audit import bias_watch
from folkmoot.coordinator.audit.bias_watch import BiasWatch
from folkmoot.coordinator.audit.question import Question
from folkmoot.coordinator.audit.selection import Selection
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.honest_rounding import RoundingSpread
from folkmoot.trust.recompute import Recomputed, Tolerance
from folkmoot.trust.residuals import Stage, StageResiduals

MODEL = MemoryExperts()
ROWS = 4
ENOUGH = 3 * ROWS


def rows_of(node: AskedNode, seed: int, *, carried: int = ROWS) -> tuple[Question, Recomputed]:
    """The first rows of a result that carries so many: twice as long as they should be."""
    verified = node.result(rows=carried, seed=seed)
    of_first = Selection((), np.arange(ROWS), verified.pairs.take(verified.pairs.rows < ROWS))
    question = Question.about(verified, of_first, OpeningKind.RAW)
    truth = question.output.astype(np.float64) / 2
    sizes = np.linalg.norm(truth, axis=1)
    return question, Recomputed(truth, sizes, RoundingSpread(np.zeros(ROWS), np.zeros(ROWS)), np.zeros(ROWS))


def test_a_record_that_grows_is_not_given_up_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = AskedNode(MODEL, bytes(32)), AskedNode(MODEL, bytes(32))
    size = rows_of(large, 0, carried=64)[0].verified.size
    monkeypatch.setattr(bias_watch, "MOST_KEPT_BYTES", 2 * size + 100)
    watch = BiasWatch(1e-4, Tolerance(drift_rows=ENOUGH))
    assert not watch.weigh(*rows_of(large, 1, carried=64))
    assert not watch.weigh(*rows_of(small, 1))
    assert not watch.weigh(*rows_of(large, 2, carried=64))
    assert len(watch.weigh(*rows_of(large, 3, carried=64))) == 3


def test_the_fewest_rows_for_their_bytes_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small, other = (AskedNode(MODEL, bytes(32)) for _ in range(3))
    size = rows_of(large, 0, carried=64)[0].verified.size
    monkeypatch.setattr(bias_watch, "MOST_KEPT_BYTES", size + size // 8)
    watch = BiasWatch(1e-4, Tolerance(drift_rows=ENOUGH))
    for seed in (1, 2):
        assert not watch.weigh(*rows_of(small, seed))
    assert not watch.weigh(*rows_of(large, 1, carried=64))
    assert not watch.weigh(*rows_of(other, 1)), "for which the large one gives way"
    assert len(watch.weigh(*rows_of(small, 3))) == 3
    assert not watch.weigh(*rows_of(large, 2, carried=64))
    assert not watch.weigh(*rows_of(large, 3, carried=64))


def test_rows_of_which_nothing_can_be_said_are_not_kept() -> None:
    node, watch = AskedNode(MODEL, bytes(32)), BiasWatch(1e-4, Tolerance(drift_rows=ENOUGH))
    for seed in (1, 2, 3):
        question, truth = rows_of(node, seed)
        assert not watch.weigh(question, replace(truth, leeway=np.full(ROWS, np.inf)))
    for seed in (4, 5):
        assert not watch.weigh(*rows_of(node, seed))
    assert len(watch.weigh(*rows_of(node, 6))) == 3


def test_a_row_counts_once_whatever_signs_its_zeros_have() -> None:
    node, watch = AskedNode(MODEL, bytes(32)), BiasWatch(1e-4, Tolerance(drift_rows=2 * ROWS))
    question, truth = rows_of(node, 1)
    for zero in (0.0, -0.0):
        again, _ = rows_of(node, 1)
        again.hidden[:, ::3] = zero
        assert not watch.weigh(again, truth)
        assert bool((again.hidden[:, 0].signbit() == (str(zero)[0] == "-")).all()), (
            "nobody else's rows are changed"
        )
    assert watch.weigh(question, truth)


def left_by(question: Question, error: float, seed: int) -> dict[Stage, StageResiduals]:
    """What an opening leaves whose rows are all off by the same small vector, honestly rounded."""
    noise = np.random.default_rng(seed)

    def stage(rows: int) -> StageResiduals:
        return StageResiduals(error + noise.normal(0, 1e-4, (rows, 8)), noise.normal(0, 1, (rows, 8)))

    pairs = sum(len(part.rows) for part in question.selection.by_expert)
    return {Stage.OPENED: stage(pairs), Stage.OUTPUT: stage(len(question.selection.rows))}


def test_who_is_weighed_stays_suspected_until_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_watch, "WINDOW_ROWS", 80)
    node, watch = AskedNode(MODEL, bytes(32)), BiasWatch(1e-4, Tolerance(drift_rows=ENOUGH))

    def noted(seed: int, epoch: int = 0) -> bool:
        question, _ = rows_of(node, seed)
        return watch.note(question, left_by(question, 0.003, seed), epoch)

    suspected = [noted(seed) for seed in range(21)]
    assert suspected[-1] and not suspected[0]
    assert not noted(21), "nobody weighs it, and the window is over"
    assert any(noted(seed) for seed in range(22, 42))
    assert not watch.weigh(*rows_of(node, 41))
    assert all(noted(seed) for seed in range(42, 90)), "over the end of the window"
    assert noted(90, epoch=1), "and of the epoch"
    assert not watch.weigh(*rows_of(node, 90))
    assert len(watch.weigh(*rows_of(node, 91))) == 3
    assert not noted(92, epoch=2), "it has been weighed"
