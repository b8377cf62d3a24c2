"""Which rows of a result an audit asks for: pure, but for the random numbers that it is given.

Guarantees: rows are asked for only because a chosen expert worked on them; each comes with all of its pairs on the node,
because outputs are summed per row; no selection that is drawn is over its caps; a chosen expert that none of the rows has passed through is
left out of the subjects, so nothing is ever counted as audited that was not.

Letters: R rows of the frame, r rows asked for, P pairs of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

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

    @cached_property
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
    count, total, most = 0, 0, min(caps.rows, int(np.count_nonzero(load)))
    chosen = list(subjects)
    for index in draws.order(len(chosen)):
        if count == most:
            break
        of_expert = pairs.rows[_span(pairs, chosen[index])]
        for at in draws.order(len(of_expert))[: caps.rows_per_expert]:
            row = of_expert[at]
            if not asked[row] and count < most and total + load[row] <= caps.pairs:
                asked[row] = True
                count += 1
                total += int(load[row])
    return _selection(pairs, asked, subjects) if total else None


def cover(
    pairs: Pairs,
    rows: int,
    wanted: Int64s,
    subjects: Mapping[int, AuditSubject],
    caps: SelectionCaps,
) -> list[Selection]:
    """Selections that have each wanted row in one of them, none over the caps unless a single row is.

    Args:
        pairs: The frame's, in canonical order.
        rows: R.
        wanted: Rows of the frame, ascending.
        subjects: Of all experts of the frame.
        caps: The most that may be asked for at once, however many there are for each expert.
    """
    load = np.bincount(pairs.rows, minlength=rows)  # [R] pairs of each row
    selections: list[Selection] = []
    start = 0
    while start < len(wanted):
        end, total = start + 1, int(load[wanted[start]])
        while end < len(wanted) and end - start < caps.rows and total + int(load[wanted[end]]) <= caps.pairs:
            total += int(load[wanted[end]])
            end += 1
        asked = np.zeros(rows, np.bool_)
        asked[wanted[start:end]] = True
        selections.append(_selection(pairs, asked, subjects))
        start = end
    return selections


def _selection(pairs: Pairs, asked: npt.NDArray[np.bool_], subjects: Mapping[int, AuditSubject]) -> Selection:
    mask = asked[pairs.rows]
    places = np.cumsum(asked, dtype=np.int32) - np.int32(1)
    kept = Pairs(pairs.experts[mask], places[pairs.rows[mask]].astype(np.int32), pairs.gates[mask])
    seen = set(kept.loads[0])
    about = tuple(subject for expert, subject in subjects.items() if expert in seen)
    return Selection(about, np.flatnonzero(asked), kept)


def _span(pairs: Pairs, expert: int) -> slice:
    first, last = np.searchsorted(pairs.experts, [expert, expert + 1])
    return slice(int(first), int(last))
