"""A result that dispatch has accepted, as it is handed to whoever checks it later.

Guarantees: it refers to what dispatch has already, and copies nothing; nobody writes to any of it any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...models.pool import AuditedStep
from ...protos.folkmoot.v1 import link_pb2
from ...trust.statements import ResultStatement, TaskStatement
from .host import Host
from .pairs import Int64s, Pairs


@dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """Rows of a result that must be audited before they count.

    Attributes:
        step: Who waits for it, and is to be told.
        rows: [r], one at least: rows of the frame, ascending.
    """

    step: AuditedStep
    rows: Int64s


@dataclass(slots=True, eq=False)
class VerifiedResult:
    """One frame's signed result.

    Attributes:
        host: Whose it is.
        task: What was asked.
        pairs: Its routing, with rows of the frame.
        hidden: [R, H] its input as it was sent.
        result: The node's message; its signature has been found right.
        statement: What it signed.
        step: The number of the step that consumed it; 0 when it has none.
        cover: What of it must be audited, and for whom; None when nothing must.
    """

    host: Host
    task: TaskStatement
    pairs: Pairs
    hidden: torch.Tensor
    result: link_pb2.Result
    statement: ResultStatement
    step: int = 0
    cover: Cover | None = None

    @property
    def size(self) -> int:
        """About how many bytes it keeps from being freed."""
        return self.task.rows * self.task.hidden * (4 + self.hidden.element_size())


@dataclass(frozen=True, slots=True, eq=False)
class Rivals:
    """Two answers to the same rows, by different nodes: they must agree but for honest rounding.

    Attributes:
        first, seconds: Each side's results, which together hold the same pairs, with the rows of the step that each carries.
    """

    first: tuple[VerifiedResult, Int64s]
    seconds: tuple[tuple[VerifiedResult, Int64s], ...]

    @property
    def size(self) -> int:
        """About how many bytes it keeps from being freed."""
        return sum(verified.size for verified, _ in (self.first, *self.seconds))


Watcher = Callable[[VerifiedResult], None]
"""Is handed every verified result, from the thread that accepted it: whichever waits for it, or looks after what nobody waits for.
It neither waits nor raises."""

RivalsWatcher = Callable[[Rivals], None]
"""Is handed second answers beside first ones; it neither waits nor raises."""


def watched_by(*watchers: Watcher | None) -> Watcher | None:
    """One watcher that hands results to all; None when there are none."""
    present = [watcher for watcher in watchers if watcher is not None]
    if len(present) < 2:
        return present[0] if present else None

    def watch(verified: VerifiedResult) -> None:
        for watcher in present:
            watcher(verified)

    return watch
