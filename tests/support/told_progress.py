"""Progress that remembers what it was told."""

from __future__ import annotations


class ToldProgress:
    """Remembers each piece of work: its label, its total, and how many bytes were done.

    Attributes:
        works: One [label, total, done] for each piece of work.
        running: Whether one has begun and not ended.
    """

    def __init__(self) -> None:
        self.works: list[tuple[str, int | None, int]] = []
        self.running = False

    def start(self, label: str, total_bytes: int | None) -> None:
        """Remembers that a piece of work began."""
        assert not self.running
        self.running = True
        self.works.append((label, total_bytes, 0))

    def advance(self, count: int) -> None:
        """Adds to what is done."""
        assert self.running
        label, total, done = self.works[-1]
        self.works[-1] = (label, total, done + count)

    def finish(self) -> None:
        """Remembers that it ended."""
        assert self.running
        self.running = False
