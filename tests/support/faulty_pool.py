"""An `ExpertPool` that passes calls on to another, and fails in named ways when told to.

Guarantees: what it does to a call is fixed by `fault` at the time of the call; a call that is held goes on as soon as the
fault is taken away.
"""

from __future__ import annotations

import threading
from enum import Enum, auto

import torch

from folkmoot.errors import UnavailableError
from folkmoot.models.pool import ExpertFuture, ExpertPool, StepTally


class PoolFault(Enum):
    """What goes wrong."""

    NONE = auto()
    UNAVAILABLE = auto()
    """Waiting for the answer raises `UnavailableError`."""
    BROKEN = auto()
    """Waiting for the answer raises what nobody foresaw."""
    NOT_A_NUMBER = auto()
    """Every answer is NaN."""
    FIRST_ROW_NOT_A_NUMBER = auto()
    """The answer of the step's first token is NaN."""
    HELD = auto()
    """No answer comes until the fault is taken away."""


class FaultyPool:
    """Wraps a pool.

    Attributes:
        calls: Calls so far.
        strike_at: The number of the call, counted from 1, at which `fault` is set by itself to `strike_with`.
    """

    def __init__(self, pool: ExpertPool) -> None:
        self._pool = pool
        self._changed = threading.Condition()
        self._fault = PoolFault.NONE
        self.calls = 0
        self.strike_at: int | None = None
        self.strike_with = PoolFault.UNAVAILABLE

    @property
    def fault(self) -> PoolFault:
        return self._fault

    @fault.setter
    def fault(self, fault: PoolFault) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong: what a coordinator would call covered."""
        return self._fault is PoolFault.NONE

    def wait_for_calls(self, count: int) -> None:
        """Waits until so many calls have come in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls >= count, 30), f"{self.calls} calls came"

    def submit(
        self,
        layer: int,
        hidden: torch.Tensor,
        expert_ids: torch.Tensor,
        gates: torch.Tensor,
        tally: StepTally,
    ) -> ExpertFuture:
        with self._changed:
            self.calls += 1
            if self.calls == self.strike_at:
                self._fault = self.strike_with
            self._changed.notify_all()
        tally.retries += 1
        return _Answer(self, self._pool.submit(layer, hidden, expert_ids, gates, tally))

    def _await_release(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._fault is not PoolFault.HELD, 30), "never released"


class _Answer:
    def __init__(self, pool: FaultyPool, inner: ExpertFuture) -> None:
        self._pool = pool
        self._inner = inner

    def result(self) -> torch.Tensor:
        match self._pool.fault:
            case PoolFault.UNAVAILABLE:
                raise UnavailableError("layer 0 expert 3 has no host")
            case PoolFault.BROKEN:
                raise ArithmeticError("a fault for the test")
            case PoolFault.NOT_A_NUMBER:
                return torch.full_like(self._inner.result(), float("nan"))
            case PoolFault.FIRST_ROW_NOT_A_NUMBER:
                rows = self._inner.result().clone()
                rows[0] = float("nan")
                return rows
            case PoolFault.HELD:
                self._pool._await_release()
        return self._inner.result()
