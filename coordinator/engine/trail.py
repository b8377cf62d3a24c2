"""What of an audited sequence is computed and not known to be right yet.

Guarantees: every stretch of keys, values and tokens that the sequence has is either known to be right or on the trail; a stretch
leaves it when its own audits and those of all before it have passed, or with the first of those before it that goes wrong. At
most `most` rows are ahead of their audits. Pure bookkeeping, under the roster's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass

from ...errors import FolkmootError
from ...ids import NodeId
from .place import Place
from .step_audits import StepAudits


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one step did for the sequence.

    Attributes:
        audits: What it waits for.
        nodes: Whose results it was made from.
        before: Where the sequence stood.
        length: Tokens that the sequence had after it.
        rows: That it took.
    """

    audits: StepAudits
    nodes: Set[NodeId]
    before: Place
    length: int
    rows: int


class Trail:
    """Of one sequence.

    Attributes:
        stepping: Rows in the step that it takes part in.
        audits_passed: Results of its steps that were found right.
    """

    def __init__(self, arrival: int, most: int) -> None:
        self.stepping = 0
        self.audits_passed = 0
        self._arrival = arrival
        self._most = most
        self._step: StepAudits | None = None
        self._stretches: deque[Stretch] = deque()

    @property
    def ahead(self) -> int:
        """Rows that are not known to be right yet."""
        return self.stepping + sum(stretch.rows for stretch in self._stretches)

    @property
    def room(self) -> int:
        """Rows that may be computed now."""
        return self._most - self.ahead

    @property
    def clear(self) -> bool:
        """Whether everything is known to be right."""
        return not self._stretches

    @property
    def error(self) -> FolkmootError | None:
        """Why some of it will never be known to be right."""
        return next((stretch.audits.error for stretch in self._stretches if stretch.audits.error), None)

    def step(self, audits: StepAudits) -> None:
        """The step that it takes part in is about to run."""
        self._step = audits

    def stop(self) -> None:
        """Its step is over; unless it was consumed, it left nothing."""
        self.stepping = 0
        if self._step is not None:
            self._leave(self._step)
            self._step = None

    def consumed(self, nodes: Set[NodeId], before: Place, length: int) -> None:
        """Its step is over, and it has now so many tokens."""
        if self._step is None:
            raise ValueError("a step ended that never began")
        self._stretches.append(Stretch(self._step, nodes, before, length, self.stepping))
        self._step, self.stepping = None, 0

    def cleared(self) -> int | None:
        """Takes what is known to be right off the trail: so many tokens are, or None when nothing new is."""
        length: int | None = None
        while self._stretches and self._stretches[0].audits.done:
            stretch = self._stretches.popleft()
            self.audits_passed += stretch.audits.passed_count
            self._leave(stretch.audits)
            length = stretch.length
        return length

    def condemn(self, node: NodeId) -> Place | None:
        """A node's results count for nothing: where to go back to, and what came after is forgotten; None when it had no part.

        A sequence that had lost its keys and values computed some of them behind tokens that wait: these go too.
        """
        index = next((i for i, stretch in enumerate(self._stretches) if node in stretch.nodes), None)
        if index is None:
            return None
        length = self._stretches[index].before.length
        cached = min(stretch.before.cached for stretch in list(self._stretches)[index:])
        while len(self._stretches) > index:
            self._leave(self._stretches.pop().audits)
        if self._step is not None:  # nothing will come of it
            self._leave(self._step)
        return Place(cached, length)

    def abandon(self) -> None:
        """Nobody waits for anything any more."""
        self.stop()
        while self._stretches:
            self._leave(self._stretches.pop().audits)

    def _leave(self, audits: StepAudits) -> None:
        audits.members.discard(self._arrival)
