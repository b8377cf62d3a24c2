"""How an answer is to be checked before its reader has it, and what its reader does with it.

Guarantees: a `Delivery` that exists is one that the engine knows how to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verification(StrEnum):
    """What must be known of the results behind a token before it is handed out."""

    SIGNED = "signed"
    """Who computed them: each has a good signature. Audits come later, of some."""
    AUDITED = "audited"
    """That they are right: each has passed an audit of all the rows that the answer has in it."""


@dataclass(frozen=True)
class Delivery:
    """How an answer is handed out.

    Attributes:
        verification: What a token waits for.
        whole: The reader wants all of it or nothing, so none of it is handed out before its end, and all can be recalled until then.
    """

    verification: Verification = Verification.SIGNED
    whole: bool = False

    @property
    def audited(self) -> bool:
        """Whether tokens wait for audits."""
        return self.verification is Verification.AUDITED


STREAMED = Delivery()
"""Token by token, as they are made."""
