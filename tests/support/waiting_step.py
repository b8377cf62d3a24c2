"""Whoever waits for audits, as the auditor sees it.

Guarantees: it remembers what it is told, and can wait for it with a limit.
"""

from __future__ import annotations

import threading

import numpy as np

from folkmoot.coordinator.dispatch.verified_result import Cover, VerifiedResult
from folkmoot.errors import FolkmootError

PATIENCE_S = 60.0


class WaitingStep:
    """An `AuditedStep` that remembers what it is told."""

    def __init__(self, rows: int = 3) -> None:
        self.rows = np.ones(rows, np.bool_)
        self.wanted = True
        self.passes = 0
        self.errors: list[FolkmootError] = []
        self._told = threading.Condition()

    def passed(self) -> None:
        with self._told:
            self.passes += 1
            self._told.notify_all()

    def impossible(self, error: FolkmootError) -> None:
        with self._told:
            self.errors.append(error)
            self._told.notify_all()

    def wait(self, passes: int = 0, errors: int = 0) -> None:
        with self._told:
            assert self._told.wait_for(
                lambda: self.passes == passes and len(self.errors) == errors, PATIENCE_S
            ), (self.passes, self.errors)


def covered(result: VerifiedResult, step: WaitingStep, rows: list[int] | None = None) -> VerifiedResult:
    """The result, with rows that somebody waits for: all of them when none are named."""
    chosen = range(result.task.rows) if rows is None else rows
    result.cover = Cover(step, np.array(chosen, np.int64))
    return result
