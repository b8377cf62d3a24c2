"""What one step brings into the trunk's modules: the attention, the pool and the tally of the thread that runs it.

Guarantees: a module sees the step of its own thread, never another lane's; outside a step there is none, and asking for it
is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from .pool import ExpertPool, StepTally
from .trunk_spec import StepAttention


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass.

    Attributes:
        positions: [T], the place of each packed token in its own sequence.
        attention: How tokens attend.
        pool: Where their experts are.
        tally: Where expert calls are accounted.
    """

    positions: torch.Tensor
    attention: StepAttention
    pool: ExpertPool
    tally: StepTally


class _Running(threading.local):
    step: Step | None = None


_running = _Running()


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Makes `step` the thread's current one."""
    before, _running.step = _running.step, step
    try:
        yield
    finally:
        _running.step = before


def current() -> Step:
    """The thread's step. Raises RuntimeError when none runs: modules of a trunk work only inside `Trunk.forward`."""
    if _running.step is None:
        raise RuntimeError("a module of a trunk was called outside Trunk.forward")
    return _running.step
