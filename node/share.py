"""How the memory that a contributor lends is divided among coordinators.

Guarantees: the parts are never more than the whole together; nobody gets more than can be used there, and what one cannot use
goes to the others; those that could use more get the same. A pure function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WORTH_A_CHANGE: Final = 1.05
"""How many times as much somebody must get for a division to be changed."""


def shares(total: int, most: Sequence[int | None]) -> list[int]:
    """Bytes for each coordinator.

    Args:
        total: What there is to divide.
        most: The most that each can use, which is all experts of its model; None where that is not known yet.
    """
    parts = [0] * len(most)
    left, rest = total, len(most)
    for index in sorted(range(len(most)), key=lambda index: _order(most[index])):
        fair, limit = left // rest, most[index]
        parts[index] = fair if limit is None else min(fair, limit)
        left -= parts[index]
        rest -= 1
    return parts


def divided_anew(total: int, now: Sequence[int], most: Sequence[int | None]) -> list[int]:
    """What each has from now on, given what each has now: unchanged where a change would bring nobody much.

    A change costs: whoever gets another amount attaches again, and moves experts.
    """
    fair = shares(total, most)
    gains = any(
        part > have * WORTH_A_CHANGE and (limit is None or have < limit)
        for part, have, limit in zip(fair, now, most, strict=True)
    )
    return fair if gains or sum(now) > total else list(now)


def _order(most: int | None) -> tuple[bool, int]:
    """Those that can use least come first; those that may use any amount come last."""
    return (most is None, most or 0)
