"""Which bytes of something are there: spans, merged.

Guarantees: spans are never empty, never touch or overlap, and ascend; so equal sets of bytes are equal spans.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.end - self.start


class Spans:
    """A set of bytes of something that has `size` of them."""

    def __init__(self, size: int, spans: Iterable[Span] = ()) -> None:
        self.size = size
        self._spans: list[Span] = []
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        """Has these bytes too; what lies outside is left out."""
        start, end = max(span.start, 0), min(span.end, self.size)
        if start >= end:
            return
        apart = [other for other in self._spans if other.end < start or other.start > end]
        near = [other for other in self._spans if other.end >= start and other.start <= end]
        whole = Span(
            min([start, *(other.start for other in near)]), max([end, *(other.end for other in near)])
        )
        self._spans = sorted([*apart, whole])

    def missing(self) -> tuple[Span, ...]:
        """What is not there."""
        edges = [0, *(edge for span in self._spans for edge in span), self.size]
        gaps = (Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))
        return tuple(gap for gap in gaps if gap.length)

    @property
    def present(self) -> tuple[Span, ...]:
        """What is there."""
        return tuple(self._spans)

    @property
    def length(self) -> int:
        """How many bytes are there."""
        return sum(span.length for span in self._spans)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.length == self.size
