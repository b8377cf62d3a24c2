"""Who is told how long answers take.

Guarantees: every call comes from a lane's thread, from the thread that submits, closes or cancels, or from the one that tells of an
audit, outside the engine's lock.
"""

from __future__ import annotations

from typing import Literal, Protocol

Outcome = Literal["stop", "length", "cancelled", "failed"]


class EngineObserver(Protocol):
    """Hears of the engine's work; it must return at once and not raise."""

    def first_token(self, seconds: float) -> None:
        """A request's first token came this long after it was submitted."""
        ...

    def next_token(self, seconds: float) -> None:
        """A further token came this long after the one before."""
        ...

    def ended(self, outcome: Outcome, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """An answer came to its end, this long after it was submitted."""
        ...

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step of so many packed tokens took so long."""
        ...

    def drafted(self, proposed: int, accepted: int) -> None:
        """A step tried so many guessed tokens; so many of them were kept."""
        ...


class SilentObserver:
    """An observer that keeps nothing."""

    def first_token(self, seconds: float) -> None:
        """Ignored."""

    def next_token(self, seconds: float) -> None:
        """Ignored."""

    def ended(self, outcome: Outcome, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """Ignored."""

    def stepped(self, tokens: int, seconds: float) -> None:
        """Ignored."""

    def drafted(self, proposed: int, accepted: int) -> None:
        """Ignored."""
