"""Bytes changed the way that finds faults in parsers: lengths, ends, repeats, and halves of two files that are each right.

Guarantees: whatever chooses, chooses through one function from n to a number below n, so the same mutations are drawn by hypothesis,
which shortens what fails, and by a plain generator, which is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

Choose = Callable[[int], int]
"""A number from 0 to below the one given."""

MOST_CHANGES: Final = 4
_WIDTHS: Final = (1, 2, 4, 8)


def mutated(files: Sequence[bytes], choose: Choose) -> bytes:
    """One of the files, changed in one to four ways."""
    data = bytearray(files[choose(len(files))])
    for _ in range(1 + choose(MOST_CHANGES)):
        data = _KINDS[choose(len(_KINDS))](data, files, choose)
    return bytes(data)


def _place(data: bytearray, choose: Choose) -> int:
    return choose(len(data) + 1)


def _part(data: bytearray, choose: Choose) -> tuple[int, int]:
    start = _place(data, choose)
    # Fields are mostly short, and mostly of these widths.
    lengths = (1, 2, 4, 8, 32, 64, 1 + choose(200))
    return start, min(len(data), start + lengths[choose(len(lengths))])


def _flip(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    if data:
        data[choose(len(data))] ^= 1 << choose(8)
    return data


def _number(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    """A number, perhaps a length, becomes another: nothing, the most, or one beside it, in either order of bytes."""
    width = _WIDTHS[choose(len(_WIDTHS))]
    at, order = _place(data, choose), ("big", "little")[choose(2)]
    before = int.from_bytes(data[at : at + width], "big" if order == "big" else "little")
    limit = 1 << 8 * width
    values = (0, 1, limit - 1, limit // 2, before + 1, before - 1, 2 * before, len(data))
    after = values[choose(len(values))] % limit
    data[at : at + width] = after.to_bytes(width, "big" if order == "big" else "little")
    return data


def _truncate(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    return data[: _place(data, choose)]


def _delete(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    start, end = _part(data, choose)
    del data[start:end]
    return data


def _repeat(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    start, end = _part(data, choose)
    data[start:start] = data[start:end]
    return data


def _move(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    start, end = _part(data, choose)
    part = data[start:end]
    del data[start:end]
    at = _place(data, choose)
    data[at:at] = part
    return data


def _insert(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    at = _place(data, choose)
    data[at:at] = bytes(choose(256) for _ in range(1 + choose(40)))
    return data


def _splice(data: bytearray, files: Sequence[bytes], choose: Choose) -> bytearray:
    """The beginning of this file, and the end of another from the same place or any."""
    other = files[choose(len(files))]
    at = _place(data, choose)
    resumed = min(at, len(other)) if choose(2) else choose(len(other) + 1)
    return data[:at] + other[resumed:]


_KINDS: Final = (_flip, _number, _truncate, _delete, _repeat, _move, _insert, _splice)
