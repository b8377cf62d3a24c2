"""Missing experts make answers wait and change nothing; other faults fail their own step; the engine always goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from folkmoot.coordinator.engine.coverage_gate import FIRST_PAUSE_S, LONGEST_PAUSE_S, CoverageGate
from folkmoot.coordinator.engine.faults import EngineClosedError, EngineFault, NotCoveredError
from folkmoot.errors import UnavailableError
from folkmoot.models.pool import ExpertFuture, StepTally
from folkmoot.tests.support.engine_bench import PATIENCE_S, EngineBench, eventually, greedy, prompt
from folkmoot.tests.support.faulty_pool import FaultyPool, PoolFault

PROMPTS = [prompt(length, length) for length in (20, 50, 3, 41)]


@pytest.fixture
def pool(bench: EngineBench) -> FaultyPool:
    return FaultyPool(bench.local)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("call", [1, 4, 17, 30])
def test_answers_wait_for_experts_and_go_on_with_the_same_tokens(
    bench: EngineBench, pool: FaultyPool, call: int, lanes: int
) -> None:
    pool.strike_at = call
    engine = bench.engine(pool=pool, lanes=lanes)
    generations = [engine.submit(ids, greedy(16)) for ids in PROMPTS]
    eventually(lambda: not pool.healthy)
    eventually(lambda: engine.stats().running == 0)
    stats = engine.stats()
    assert (stats.waiting, stats.pages_used) == (sum(not each.ended for each in generations), 0)
    pool.fault = PoolFault.NONE
    found = [list(each.wait(PATIENCE_S).token_ids) for each in generations]
    assert found == [bench.expected(ids, 16) for ids in PROMPTS]


def test_a_request_that_comes_while_experts_are_missing_waits(bench: EngineBench, pool: FaultyPool) -> None:
    pool.fault = PoolFault.UNAVAILABLE
    asked: list[bool] = []

    def covered() -> bool:
        asked.append(pool.healthy)
        return pool.healthy

    engine = bench.engine(pool=pool, covered=covered)
    generation = engine.submit(PROMPTS[0], greedy(8))
    eventually(lambda: len(asked) > 2)
    assert pool.calls == 0
    assert not generation.ended
    pool.fault = PoolFault.NONE
    assert list(generation.wait(PATIENCE_S).token_ids) == bench.expected(PROMPTS[0], 8)


@pytest.mark.parametrize("call", [1, 9])
def test_past_the_limit_answers_fail_and_say_when_to_come_again(
    bench: EngineBench, pool: FaultyPool, call: int
) -> None:
    pool.strike_at = call
    engine = bench.engine(pool=pool, not_covered_wait_s=0.3, retry_after_s=4.0)
    generations = [engine.submit(ids, greedy(16)) for ids in PROMPTS]
    for generation in generations:
        with pytest.raises(NotCoveredError, match="layer 0 expert 3 has no host") as caught:
            generation.wait(PATIENCE_S)
        assert caught.value.retry_after_s == 4.0
        assert isinstance(caught.value, UnavailableError)
    assert engine.stats().pages_used == 0
    late = engine.submit(PROMPTS[0], greedy(8))
    pool.fault = PoolFault.NONE
    assert list(late.wait(PATIENCE_S).token_ids) == bench.expected(PROMPTS[0], 8)


def test_a_network_that_claims_to_be_covered_and_never_answers_is_given_up(
    bench: EngineBench, pool: FaultyPool
) -> None:
    pool.fault = PoolFault.UNAVAILABLE
    engine = bench.engine(pool=pool, covered=lambda: True, not_covered_wait_s=0.3)
    with pytest.raises(NotCoveredError):
        engine.submit(PROMPTS[0], greedy(8)).wait(PATIENCE_S)
    # Pauses double from 0.05 s on: a handful of tries, no tight loop.
    assert 2 <= pool.calls <= 8


class ShortSightedPool(FaultyPool):
    """Has no host for the experts of steps of 7 tokens."""

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        self.fault = PoolFault.UNAVAILABLE if len(hidden) == 7 else PoolFault.NONE
        return super().submit(layer, hidden, expert_ids, gates, tally)


def test_getting_as_far_as_before_again_and_again_is_given_up(bench: EngineBench) -> None:
    pool = ShortSightedPool(bench.local)
    engine = bench.engine(pool=pool, covered=lambda: True, not_covered_wait_s=0.3)
    with pytest.raises(NotCoveredError):
        engine.submit(prompt(32 + 7), greedy(8)).wait(PATIENCE_S)


def test_no_patience_means_failing_at_once(bench: EngineBench, pool: FaultyPool) -> None:
    pool.fault = PoolFault.UNAVAILABLE
    engine = bench.engine(pool=pool, not_covered_wait_s=0.0)
    with pytest.raises(NotCoveredError):
        engine.submit(PROMPTS[0], greedy(8)).wait(PATIENCE_S)


def test_waiting_for_experts_can_be_cancelled(bench: EngineBench, pool: FaultyPool) -> None:
    pool.fault = PoolFault.UNAVAILABLE
    engine = bench.engine(pool=pool)
    generation = engine.submit(PROMPTS[0], greedy(8))
    generation.cancel()
    assert engine.stats().waiting == 0


def test_pauses_grow_to_a_limit_and_a_step_that_succeeds_ends_them() -> None:
    gate = CoverageGate()
    assert gate.is_open(0.0, covered=True)
    assert not gate.is_open(0.0, covered=False)
    gate.step_failed(10.0)
    assert not gate.is_open(10.0 + FIRST_PAUSE_S * 0.9, covered=True)
    assert gate.is_open(10.0 + FIRST_PAUSE_S, covered=True)
    for _ in range(100):
        gate.step_failed(20.0)
    assert not gate.is_open(20.0 + LONGEST_PAUSE_S * 0.9, covered=True)
    assert gate.is_open(20.0 + LONGEST_PAUSE_S, covered=True)
    assert gate.step_succeeded()
    assert gate.is_open(0.0, covered=True)
    assert not gate.step_succeeded()


def test_a_step_that_fails_fails_its_requests_only_and_is_logged_once(
    bench: EngineBench, pool: FaultyPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.strike_at, pool.strike_with = 7, PoolFault.BROKEN
    engine = bench.engine(pool=pool, covered=lambda: True, max_running=2)
    with caplog.at_level(logging.ERROR):
        failed = [engine.submit(ids, greedy(16)) for ids in PROMPTS[:2]]
        eventually(lambda: all(each.ended for each in failed))
        pool.fault = PoolFault.NONE
        after = [engine.submit(ids, greedy(16)) for ids in PROMPTS]
        found = [list(each.wait(PATIENCE_S).token_ids) for each in after]
    assert found == [bench.expected(ids, 16) for ids in PROMPTS]
    for each in failed:
        with pytest.raises(EngineFault, match="ArithmeticError"):
            each.wait(1)
    traces = [record for record in caplog.records if record.exc_info]
    assert 1 <= len(traces) <= 2
    assert engine.stats().pages_used == 0


def test_output_that_is_not_a_number_fails_and_leaves_no_trace_in_memory(
    bench: EngineBench, pool: FaultyPool
) -> None:
    pool.fault = PoolFault.NOT_A_NUMBER
    engine = bench.engine(pool=pool, covered=lambda: True, pages=12)
    with pytest.raises(EngineFault, match="not a number"):
        engine.submit(prompt(90), greedy(4)).wait(PATIENCE_S)
    pool.fault = PoolFault.NONE
    after = [engine.submit(ids, greedy(16)) for ids in PROMPTS]
    assert [list(each.wait(PATIENCE_S).token_ids) for each in after] == [
        bench.expected(ids, 16) for ids in PROMPTS
    ]


def test_one_row_that_is_not_a_number_fails_its_own_answer(bench: EngineBench, pool: FaultyPool) -> None:
    engine = bench.engine(pool=pool, covered=lambda: True, started=False)
    generations = [engine.submit(prompt(10, number), greedy(16)) for number in range(3)]
    pool.strike_at, pool.strike_with = 7, PoolFault.FIRST_ROW_NOT_A_NUMBER
    engine.start()
    eventually(lambda: generations[0].ended)
    pool.fault = PoolFault.NONE
    with pytest.raises(EngineFault):
        generations[0].wait(1)
    endings: list[Any] = []
    for number, each in enumerate(generations[1:], start=1):
        try:
            endings.append(list(each.wait(PATIENCE_S).token_ids) == bench.expected(prompt(10, number), 16))
        except EngineFault:
            endings.append("was first in a later step before the fault was taken away")
    assert False not in endings


class BrokenTokenizer:
    """Cannot read one token."""

    def __init__(self, tokenizer: Any, unreadable: int) -> None:
        self._tokenizer = tokenizer
        self._unreadable = unreadable

    def decode(self, ids: list[int], **options: bool) -> str:
        if self._unreadable in ids:
            raise LookupError("a fault for the test")
        text: str = self._tokenizer.decode(ids, **options)
        return text

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        spelling: str | None = self._tokenizer.convert_ids_to_tokens(ids)
        return spelling


def test_a_token_that_cannot_be_written_down_fails_its_own_answer(
    bench: EngineBench, caplog: pytest.LogCaptureFixture
) -> None:
    doomed, fine = prompt(20, 1), prompt(20, 2)
    unreadable = next(
        token for token in bench.expected(doomed, 16) if token not in bench.expected(fine, 16) + fine + doomed
    )
    engine = bench.engine(tokenizer=BrokenTokenizer(bench.tokenizer, unreadable), started=False)
    generations = [engine.submit(ids, greedy(16)) for ids in (doomed, fine)]
    engine.start()
    with pytest.raises(EngineFault, match="LookupError"):
        generations[0].wait(PATIENCE_S)
    assert list(generations[1].wait(PATIENCE_S).token_ids) == bench.expected(fine, 16)
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_fault_outside_steps_fails_what_waits_and_the_lane_goes_on(
    bench: EngineBench, pool: FaultyPool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [True]

    def covered() -> bool:
        if broken:
            raise LookupError("a fault for the test")
        return True

    engine = bench.engine(pool=pool, covered=covered)
    with pytest.raises(EngineFault, match="LookupError"):
        engine.submit(PROMPTS[0], greedy(4)).wait(PATIENCE_S)
    broken.clear()
    assert list(engine.submit(PROMPTS[0], greedy(4)).wait(PATIENCE_S).token_ids) == bench.expected(
        PROMPTS[0], 4
    )
    assert any(record.exc_info for record in caplog.records)


def test_closing_while_experts_are_missing(bench: EngineBench, pool: FaultyPool) -> None:
    pool.strike_at = 6
    engine = bench.engine(pool=pool)
    generation = engine.submit(PROMPTS[0], greedy(16))
    eventually(lambda: not pool.healthy)
    engine.close()
    with pytest.raises(EngineClosedError):
        generation.wait(1)
    assert engine.stats().waiting == 0
