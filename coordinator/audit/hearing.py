"""One hearing: what two unrelated nodes are asked about rows that the coordinator cannot compute, and what they have said so far.

Guarantees: for each expert two nodes are asked whose owners differ from one another and from those of everybody who is concerned; each
first signs its answer and only then is asked to open it, raw; each pair of row and expert is a row of its own, so nothing that
one expert answers hides what another does.

Letters: P pairs of row and expert in question, m of them asked of one node at once, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...ids import NodeId
from ...trust.expert_arithmetic import Doubles
from ...trust.residuals import OpenedExpert
from ...trust.testimony import Statement
from ..dispatch.host import Host
from ..dispatch.pairs import Int64s
from ..dispatch.part import Part
from .question import Question, signed_output

OwnerOf = Callable[[NodeId], str]


@dataclass(slots=True, eq=False)
class Asked:
    """What one node is asked by one frame.

    Attributes:
        hearing: For which.
        side: 0 or 1.
        host: Whom.
        pairs: [m] which of the hearing's pairs.
        part: The frame; None until it is made.
        opened: What it opened; None until it did.
    """

    hearing: Hearing
    side: int
    host: Host
    pairs: Int64s
    part: Part | None = None
    opened: list[OpenedExpert] | None = None


@dataclass(slots=True, eq=False)
class Hearing:
    """About the rows of one question.

    Attributes:
        question: Which.
        asked: What was asked of whom; each pair once on either side.
        failed: Whether somebody did not answer, or not open.
    """

    question: Question
    asked: list[Asked] = field(default_factory=list)
    failed: bool = False

    @property
    def complete(self) -> bool:
        """Whether all have said what they were asked."""
        return all(one.opened is not None for one in self.asked)

    @property
    def names(self) -> set[NodeId]:
        """Who was asked."""
        return {one.host.node for one in self.asked}

    def statement(self, side: int) -> Statement:
        """What one side said, pair by pair; once it is complete."""
        pairs = len(self.question.selection.pairs)
        answers: Doubles | None = None
        gate: Doubles | None = None
        up: Doubles | None = None
        for one in self.asked:
            if one.side != side or one.part is None or one.part.verified is None or one.opened is None:
                continue
            output = signed_output(one.part.verified)  # [m, H]
            ups = np.concatenate([part.up for part in one.opened])  # [m, I]
            gates = [part.gate for part in one.opened if part.gate is not None]
            if answers is None or up is None:
                answers = np.zeros((pairs, output.shape[1]))
                up = np.zeros((pairs, ups.shape[1]))
                gate = np.zeros(up.shape) if gates else None
            answers[one.pairs], up[one.pairs] = output, ups
            if gate is not None:
                gate[one.pairs] = np.concatenate(gates)
        assert answers is not None and up is not None, "something is asked of each side"
        return Statement(answers, gate, up)


def summon(
    hearing: Hearing,
    holders: Mapping[int, Sequence[Host]],
    owner_of: OwnerOf,
    concerned: Collection[NodeId],
    most_rows: int,
) -> bool:
    """Fills in who is asked for what; whether there are two unrelated nodes for each expert.

    Args:
        hearing: Has nobody asked yet.
        holders: Who may be asked for each expert, in the order in which they are taken.
        owner_of: Whose a node is.
        concerned: Nodes whose owners may not be asked.
        most_rows: Pairs that are asked of a node by one frame at most.
    """
    experts = hearing.question.selection.pairs.experts
    shunned = {owner_of(node) for node in concerned}
    chosen: tuple[dict[Host, list[int]], dict[Host, list[int]]] = ({}, {})
    for expert in np.unique(experts).tolist():
        taken: set[str] = set()
        for side in chosen:
            fit = [host for host in holders.get(expert, ()) if owner_of(host.node) not in shunned | taken]
            if not fit:
                return False
            # Whoever is asked already is asked for more: fewer frames.
            host = next((host for host in fit if host in side), fit[0])
            side.setdefault(host, []).append(expert)
            taken.add(owner_of(host.node))
    for number, side in enumerate(chosen):
        for host, wanted in side.items():
            pairs = np.flatnonzero(np.isin(experts, wanted))
            hearing.asked += [Asked(hearing, number, host, part) for part in _split(pairs, most_rows)]
    return True


def _split(pairs: Int64s, most: int) -> Iterator[Int64s]:
    for start in range(0, len(pairs), most):
        yield pairs[start : start + most]
