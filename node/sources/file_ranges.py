"""From bytes of experts to bytes of files: which ranges to ask for, and whose bytes they are.

Guarantees: every wanted byte lies in exactly one request, and nothing else does; ranges that touch in one file are one
request, whichever experts they belong to and in whatever order these have them; requests ascend by file and offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...ids import ExpertKey
from ...models.manifest import ByteRange
from .weight_source import Piece, Want


@dataclass(frozen=True)
class FilePart:
    """Bytes of one file that are canonical bytes of one expert, from `canonical` on."""

    file: int
    offset: int
    length: int
    key: ExpertKey
    canonical: int

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.offset + self.length


@dataclass(frozen=True)
class FileRequest:
    """One stretch of one file: parts that follow each other without a gap."""

    parts: tuple[FilePart, ...]

    @property
    def file(self) -> int:
        """Which file, as the manifest counts."""
        return self.parts[0].file

    @property
    def offset(self) -> int:
        """Where it begins."""
        return self.parts[0].offset

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.parts[-1].end - self.offset


def parts_of(want: Want, ranges: Iterable[ByteRange]) -> Iterator[FilePart]:
    """Where what is wanted of an expert lies, by the ranges of its canonical bytes."""
    start = 0
    for place in ranges:
        for span in want.missing:
            first, last = max(span.start, start), min(span.end, start + place.length)
            if first < last:
                yield FilePart(place.file, place.offset + first - start, last - first, want.key, first)
        start += place.length


def joined(parts: Iterable[FilePart], most_bytes: int) -> list[FileRequest]:
    """The requests that bring these parts.

    Args:
        parts: In any order. Where two of them overlap, both are brought, each in a request of its own.
        most_bytes: A request takes no further part when it would have more than this.
    """
    requests: list[list[FilePart]] = []
    for part in sorted(parts, key=lambda part: (part.file, part.offset)):
        last = requests[-1] if requests else None
        if (
            last is not None
            and (last[-1].file, last[-1].end) == (part.file, part.offset)
            and part.end - last[0].offset <= most_bytes
        ):
            last.append(part)
        else:
            requests.append([part])
    return [FileRequest(tuple(parts)) for parts in requests]


class Splitter:
    """Tells whose the bytes of one request are, as they come."""

    def __init__(self, request: FileRequest) -> None:
        self._parts: Sequence[FilePart] = request.parts
        self._index = self._done = 0
        self.left = request.length
        """How many bytes are still to come."""

    def split(self, data: bytes) -> Iterator[Piece]:
        """The pieces of the next bytes. Raises ValueError when they are more than are left."""
        if len(data) > self.left:
            raise ValueError(f"{len(data)} bytes came where {self.left} are left")
        self.left -= len(data)
        view = memoryview(data)
        while view:
            part = self._parts[self._index]
            taken = view[: part.length - self._done]
            yield Piece(part.key, part.canonical + self._done, bytes(taken))
            self._done += len(taken)
            if self._done == part.length:
                self._index, self._done = self._index + 1, 0
            view = view[len(taken) :]
