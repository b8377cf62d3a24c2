"""Any of the results that wait may be next, each as likely as the other, and all come out once."""

from __future__ import annotations

from collections import Counter

import pytest

from folkmoot.coordinator.audit.line import Line, Waiting
from folkmoot.coordinator.audit.pace import Pace
from folkmoot.coordinator.audit.secret_draws import SecretDraws
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts

NODE = AskedNode(MemoryExperts(hidden=64, intermediate=48), bytes(32))
RESULTS = [NODE.result(rows=1 + seed, seed=seed) for seed in range(4)]
WAITING = [Waiting(result, []) for result in RESULTS]


def line(*waiting: Waiting) -> Line:
    """With these in it."""
    made = Line(Pace(0.02, 0.0), SecretDraws())
    for one in waiting:
        made.add(one)
    return made


def test_all_come_out_once_and_nothing_is_left() -> None:
    made = line(*WAITING)
    assert (len(made), made.size) == (4, sum(result.size for result in RESULTS))
    assert {id(made.draw()) for _ in range(4)} == {id(one) for one in WAITING}
    assert (len(made), made.size) == (0, 0)
    with pytest.raises(IndexError):
        made.draw()


def test_each_is_as_likely_to_be_next() -> None:
    drawn = Counter(id(line(*WAITING).draw()) for _ in range(4000))
    assert len(drawn) == 4
    assert all(850 < count < 1150 for count in drawn.values()), "1000 +- 27 each"
