"""Which rows of a result an audit asks for: pure, but for the random numbers that it is given.

Guarantees: rows are asked for only because a chosen expert worked on them; each comes with all of its pairs on the node,
because outputs are summed per row; no selection is over its caps; a chosen expert that none of the rows has passed through is
left out of the subjects, so nothing is ever counted as audited that was not.

Letters: R rows of the frame, r rows asked for, P pairs of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...trust.audit_policy import AuditSubject
from ...trust.expert_arithmetic import ExpertRows
from ..dispatch.pairs import Int64s, Pairs
from .secret_draws import SecretDraws


@dataclass(frozen=True)
class SelectionCaps:
    """The most that one audit may ask for.

    Attributes:
        rows_per_expert: Rows drawn for each chosen expert.
        rows, pairs: In all.
    """

    rows_per_expert: int
    rows: int
    pairs: int


@dataclass(frozen=True, eq=False)
class Selection:
    """What one audit asks for.

    Attributes:
        subjects: Whom it is about: a record of each is made when the audit ends.
        rows: [r] rows of the frame, ascending.
        pairs: Their pairs, with rows as indices into `rows`.
    """

    subjects: tuple[AuditSubject, ...]
    rows: Int64s
    pairs: Pairs

    @property
    def by_expert(self) -> list[ExpertRows]:
        """The rows of each expert, ascending."""
        experts, counts = self.pairs.loads
        ends = np.cumsum(counts)
        return [
            ExpertRows(
                expert,
                self.pairs.rows[end - count : end].astype(np.int64),
                self.pairs.gates[end - count : end],
            )
            for expert, count, end in zip(experts, counts, ends, strict=True)
        ]


def select(
    pairs: Pairs, rows: int, subjects: Mapping[int, AuditSubject], caps: SelectionCaps, draws: SecretDraws
) -> Selection | None:
    """Draws the rows of an audit; None when there are none to ask for.

    Args:
        pairs: The frame's, in canonical order.
        rows: R.
        subjects: The chosen experts.
        caps: The most that may be asked for.
        draws: Where chance comes from.
    """
    load = np.bincount(pairs.rows, minlength=rows)  # [R] pairs of each row
    asked = np.zeros(rows, np.bool_)
    total = 0
    chosen = list(subjects)
    for index in draws.order(len(chosen)):
        of_expert = pairs.rows[_span(pairs, chosen[index])]
        for at in draws.order(len(of_expert))[: caps.rows_per_expert]:
            row = of_expert[at]
            if not asked[row] and asked.sum() < caps.rows and total + load[row] <= caps.pairs:
                asked[row] = True
                total += int(load[row])
    if not total:
        return None
    mask = asked[pairs.rows]
    places = np.cumsum(asked, dtype=np.int32) - np.int32(1)
    kept = Pairs(pairs.experts[mask], places[pairs.rows[mask]].astype(np.int32), pairs.gates[mask])
    seen = set(kept.loads[0])
    about = tuple(subject for expert, subject in subjects.items() if expert in seen)
    return Selection(about, np.flatnonzero(asked), kept)


def _span(pairs: Pairs, expert: int) -> slice:
    first, last = np.searchsorted(pairs.experts, [expert, expert + 1])
    return slice(int(first), int(last))
