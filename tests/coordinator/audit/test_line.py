"""Any of the results that wait may be next, each as likely as the other, and all come out once; what is due waits for nothing but
room at its node."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from folkmoot.coordinator.audit.line import DUE_ROWS_AT_ONCE, Line, Waiting
from folkmoot.coordinator.audit.pace import Pace
from folkmoot.coordinator.audit.question import Question
from folkmoot.coordinator.audit.secret_draws import SecretDraws
from folkmoot.coordinator.audit.selection import Selection
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.audit_statements import OpeningKind

NODE = AskedNode(MemoryExperts(hidden=64, intermediate=48), bytes(32))
RESULTS = [NODE.result(rows=1 + seed, seed=seed) for seed in range(4)]
WAITING = [Waiting(result, [], due=False) for result in RESULTS]
DUE = [Waiting(result, [], due=True) for result in RESULTS]


def line(*waiting: Waiting) -> Line:
    """With these in it."""
    made = Line(Pace(0.02, 0.0), SecretDraws())
    for one in waiting:
        made.add(one)
    return made


def question(result: VerifiedResult) -> Question:
    """About all of its rows."""
    rows = np.arange(result.task.rows)
    return Question.about(result, Selection((), rows, result.pairs), OpeningKind.RAW)


def test_all_come_out_once_and_nothing_is_left() -> None:
    made = line(*WAITING)
    assert (len(made), made.size) == (4, sum(result.size for result in RESULTS))
    assert made.draw_due() is None
    assert {id(made.draw_other()) for _ in range(4)} == {id(one) for one in WAITING}
    assert (len(made), made.size, made.idle) == (0, 0, True)
    with pytest.raises(IndexError):
        made.draw_other()


def test_each_is_as_likely_to_be_next() -> None:
    drawn = Counter(id(line(*WAITING).draw_other()) for _ in range(4000))
    assert len(drawn) == 4
    assert all(850 < count < 1150 for count in drawn.values()), "1000 +- 27 each"


def test_what_is_due_is_given_up_last() -> None:
    made = line(*DUE, *WAITING)
    assert all(not made.give_up().due for _ in range(4))
    assert all(made.give_up().due for _ in range(4))
    with pytest.raises(IndexError):
        made.give_up()


def test_what_is_due_goes_out_until_a_node_has_enough_to_open() -> None:
    many = NODE.result(rows=DUE_ROWS_AT_ONCE, seed=9)
    made = line(*DUE)
    out = question(many)
    made.asked(out)
    assert made.draw_due() is None, "the node has enough to open"
    assert not made.idle
    assert made.ended(out) and not made.ended(out)
    assert made.due_rows == 0
    assert made.draw_due() is not None
