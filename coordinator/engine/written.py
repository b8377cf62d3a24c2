"""What a step made of one answer."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import FolkmootError
from .answer import Answer
from .requests import Delta


@dataclass(frozen=True)
class Written:
    """What a step made of one answer.

    Attributes:
        answer: The answer.
        deltas: One for each new token; none, and no error, when drafts spoilt the step for it.
        error: Why it must fail after these.
    """

    answer: Answer
    deltas: tuple[Delta, ...]
    error: FolkmootError | None = None

    @property
    def ends(self) -> bool:
        """Whether the answer is over."""
        return self.error is not None or bool(self.deltas and self.deltas[-1].finish_reason)

    @property
    def waits(self) -> bool:
        """Whether its deltas wait for audits."""
        return self.answer.sequence.trail is not None and self.error is None

    @property
    def spoilt(self) -> bool:
        """Whether it must be computed again, without drafts."""
        return not self.deltas and self.error is None

    @property
    def tokens(self) -> list[int]:
        """Its new tokens."""
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def drafts_kept(self) -> int:
        """Tokens that it has on top of the one that a step without drafts makes."""
        return max(0, len(self.deltas) - 1)
