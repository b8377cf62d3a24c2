"""One sequence as the scheduler sees it: its tokens, how many of them are cached, and where.

Guarantees: `pages` hold the keys and values of `tokens[:cached]` whenever the sequence is not in a step, and no page more
than its tokens need; a sequence that waits owns no page. How to get
back to where it stood before any node had a part in it is on its `trail`, if it is audited, and otherwise in its `sources`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from .sources import Sources
from .speculation.drafter import Drafter
from .trail import Trail


class State(Enum):
    """Where a sequence is."""

    WAITING = auto()
    """Owns no page; everything must be computed, again or for the first time."""
    READY = auto()
    """Owns pages, and may take part in the next step."""
    STEPPING = auto()
    """Takes part in a step that a lane is running."""
    HELD = auto()
    """Its tokens are all there and wait for their audits; owns no page."""
    ENDED = auto()
    """Gone; owns no page."""


@dataclass(eq=False)
class Sequence:
    """A prompt and the answer so far.

    Attributes:
        arrival: Order of arrival, unique; the older of two sequences is the one with the smaller number.
        tokens: The prompt, then the answer.
        cached: How many tokens' keys and values are in `pages`.
        pages: Pages in order.
        fresh: Those of `pages` that may hold what another sequence left there.
        served: The number of the last step that took the sequence.
        drafter: Guesses its next tokens; None where that is off.
        sources: Whose results it was computed from, if it is not audited.
        trail: What of it waits for audits; None when nobody waits for any.
    """

    arrival: int
    tokens: list[int]
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    served: int = 0
    drafter: Drafter | None = None
    sources: Sources = field(default_factory=Sources)
    trail: Trail | None = None
    state: State = State.WAITING

    @property
    def remaining(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.cached
