"""How experts are used: popularity and company are what was routed, old rows fade, memory is bounded, and the pool behind is none the wiser."""

from __future__ import annotations

import numpy as np
import torch

from folkmoot.coordinator.placement.noted_experts import NotedExperts
from folkmoot.coordinator.placement.usage import ENOUGH_ROWS, MOST_NOTED, MOST_ROWS_OF_A_CALL, Usage
from folkmoot.ids import ExpertKey
from folkmoot.models.pool import ExpertFuture, StepTally


def experts(layers: int, count: int) -> dict[ExpertKey, int]:
    return {ExpertKey(layer, expert): 1 for layer in range(layers) for expert in range(count)}


def noted(usage: Usage, layer: int, rows: list[list[int]], times: int) -> None:
    for _ in range(times):
        usage.note(layer, np.array(rows, np.int64))
        usage.fold()


def test_nothing_is_said_before_enough_was_seen_of_every_layer() -> None:
    usage = Usage(experts(2, 4))
    noted(usage, 0, [[0, 1]] * MOST_ROWS_OF_A_CALL, ENOUGH_ROWS // MOST_ROWS_OF_A_CALL + 1)
    assert usage.traffic() is None
    noted(usage, 1, [[0, 1]] * MOST_ROWS_OF_A_CALL, ENOUGH_ROWS // MOST_ROWS_OF_A_CALL + 1)
    assert usage.traffic() is not None


def test_popularity_and_company_are_what_was_routed() -> None:
    usage = Usage(experts(1, 4))
    noted(usage, 0, [[0, 1], [0, 1], [0, 2], [3, 1]], ENOUGH_ROWS)
    traffic = usage.traffic()
    assert traffic is not None
    together = traffic.together[0] / traffic.popularity[0][2]
    expected = [[3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    np.testing.assert_allclose(together, expected, rtol=1e-4)
    np.testing.assert_allclose(np.diag(traffic.together[0]), traffic.popularity[0], rtol=1e-4)


def test_old_rows_fade() -> None:
    usage = Usage(experts(1, 4), half_life_rows=1000)
    noted(usage, 0, [[0, 1]] * 10, 1000)
    noted(usage, 0, [[2, 3]] * 10, 100)
    traffic = usage.traffic()
    assert traffic is not None
    before, now = traffic.popularity[0][0], traffic.popularity[0][2]
    assert 0.8 < before / now < 1.2, "after one half-life both weigh the same"


def test_what_is_noted_and_never_folded_is_bounded() -> None:
    usage = Usage(experts(1, 4))
    long = np.zeros((1000, 1), np.int64)
    for _ in range(MOST_NOTED + 100):
        usage.note(0, long)
    assert len(usage._noted) == MOST_NOTED
    assert max(len(rows) for _, rows in usage._noted) <= MOST_ROWS_OF_A_CALL
    usage.note(0, long[:0])
    usage.fold()


def test_of_a_very_wide_model_only_popularity_is_known() -> None:
    usage = Usage(experts(4, 4096))
    noted(usage, 0, [[4095, 5]] * MOST_ROWS_OF_A_CALL, 1)
    for layer in range(4):
        noted(usage, layer, [[4095, 5]] * MOST_ROWS_OF_A_CALL, ENOUGH_ROWS // MOST_ROWS_OF_A_CALL + 1)
    traffic = usage.traffic()
    assert traffic is not None
    assert not traffic.together
    assert set(np.flatnonzero(traffic.popularity[3])) == {5, 4095}


def test_a_row_that_names_what_the_layer_does_not_have_harms_nothing() -> None:
    usage = Usage(experts(1, 4))
    usage.note(0, np.array([[77, -3]], np.int64))
    usage.note(9, np.array([[0, 1]], np.int64))
    usage.fold()
    noted(usage, 0, [[0, 1]] * MOST_ROWS_OF_A_CALL, ENOUGH_ROWS // MOST_ROWS_OF_A_CALL + 1)
    assert usage.traffic() is not None


class _Pool:
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        self.calls.append((layer, hidden, expert_ids, gates, tally))
        return _Answer(hidden)


class _Answer:
    def __init__(self, answer: torch.Tensor) -> None:
        self._answer = answer

    def result(self) -> torch.Tensor:
        return self._answer


def test_a_noted_pool_gets_every_call_as_it_was_and_gives_its_answer() -> None:
    usage, behind = Usage(experts(1, 4)), _Pool()
    pool = NotedExperts(behind, usage)
    hidden, ids, gates, tally = (
        torch.ones(2, 3),
        torch.tensor([[0, 1], [2, 3]]),
        torch.ones(2, 2),
        StepTally(),
    )
    assert pool.submit(0, hidden, ids, gates, tally).result() is hidden
    assert all(
        got is given for got, given in zip(behind.calls[0], (0, hidden, ids, gates, tally), strict=True)
    )
    ids.zero_()
    (layer, rows), *others = usage._noted
    assert layer == 0
    assert not others
    assert rows.tolist() == [[0, 1], [2, 3]], "what was noted does not change with the caller's tensor"
