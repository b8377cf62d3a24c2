"""How long work tells whoever started it how far it is.

Guarantees: `start`, any number of `advance`, `finish`, in this order and from one thread at a time; work may start again
under another label after `finish`. Nothing here draws: the command line does.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Someone who wants to know how many bytes are done."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """A piece of work begins; `total_bytes` is None while its size is unknown."""
        ...

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        ...

    def finish(self) -> None:
        """The piece of work is over, done or failed."""
        ...


class Silent:
    """Progress that nobody looks at."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Says nothing."""

    def advance(self, count: int) -> None:
        """Says nothing."""

    def finish(self) -> None:
        """Says nothing."""
