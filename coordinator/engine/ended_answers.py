"""The last answers that ended before everything they were made from had been audited.

Guarantees: bounded, the oldest forgotten first; an answer is doubted at most once. No prompt and no word of an answer is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Final

from ...ids import NodeId

MOST: Final = 4096
MOST_SHOWN: Final = 100


@dataclass(slots=True)
class EndedAnswer:
    """One of them.

    Attributes:
        id: The generation's.
        nodes: Whose results it was made from.
        ended_unix_s: When it ended.
        doubted: The node among them that was convicted later.
    """

    id: str
    nodes: Set[NodeId]
    ended_unix_s: float
    doubted: NodeId | None = None


class EndedAnswers:
    """The records of one engine. The caller serialises calls.

    Attributes:
        doubted: Answers that had consumed results of a node that was convicted later, since the start.
    """

    def __init__(self, most: int = MOST) -> None:
        self.doubted = 0
        self._answers: deque[EndedAnswer] = deque(maxlen=most)

    def add(self, answer: EndedAnswer) -> None:
        """One more has ended."""
        self._answers.append(answer)

    def doubt(self, node: NodeId) -> int:
        """A node was convicted: how many answers are doubted because of it, and were not before."""
        found = [answer for answer in self._answers if answer.doubted is None and node in answer.nodes]
        for answer in found:
            answer.doubted = node
        self.doubted += len(found)
        return len(found)

    def document(self) -> list[dict[str, Any]]:
        """The last ones that are doubted, newest first."""
        doubted = (answer for answer in reversed(self._answers) if answer.doubted is not None)
        return [
            {"id": answer.id, "node": answer.doubted, "ended_unix_s": int(answer.ended_unix_s)}
            for answer, _ in zip(doubted, range(MOST_SHOWN), strict=False)
        ]
