"""One answer in the making: the scheduler's sequence, who writes it down, and where it is read."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ...ids import NodeId
from .generation import Generation
from .place import Place
from .sequence import Sequence
from .writer import Writer


@dataclass(eq=False)
class Answer:
    """What the engine keeps of an unfinished request.

    Attributes:
        sequence: Its tokens and pages.
        writer: Turns chosen tokens into deltas.
        generation: Where deltas go.
        submitted_s: When it arrived, on the engine's clock.
        last_token_s: When its last token was made; None before the first.
        blocked_since_s: Since when missing experts hold it up; None when they do not.
        step_failed: Whether a step found no host for some expert, and no new ground was gained since.
        furthest: How many tokens were ever cached at once: the ground gained.
        recall: Where it is to be taken back to when the step that it is in is over; None when it is not.
    """

    sequence: Sequence
    writer: Writer
    generation: Generation
    submitted_s: float
    last_token_s: float | None = None
    blocked_since_s: float | None = None
    step_failed: bool = False
    furthest: int = 0
    recall: Place | None = None

    def consumed(self, nodes: Set[NodeId], before: Place) -> None:
        """A step is over in which it took part, made from results of these nodes; where it stood before."""
        sequence = self.sequence
        if sequence.trail is None:
            sequence.sources.consumed(nodes, before)
        elif self.recall is None:
            sequence.trail.consumed(nodes, before, len(sequence.tokens))

    def condemn(self, node: NodeId) -> Place | None:
        """A node's results count for nothing: where to go back to; None when it had no part that is not known to be right."""
        trail = self.sequence.trail
        return self.sequence.sources.condemn(node) if trail is None else trail.condemn(node)

    def recall_to(self, place: Place) -> None:
        """It is to be taken back to a place, or to an earlier one that was named before."""
        self.recall = place if self.recall is None else self.recall.earlier(place)

    def advanced(self, end: int) -> None:
        """Its first `end` tokens are cached; getting anew where it was before ends no trouble."""
        if end > self.furthest:
            self.furthest = end
            self.blocked_since_s, self.step_failed = None, False

    def blocked_for_s(self, now_s: float) -> float:
        """How long missing experts have held it up; starts the count where they did not yet."""
        if self.blocked_since_s is None:
            self.blocked_since_s = now_s
        return now_s - self.blocked_since_s
