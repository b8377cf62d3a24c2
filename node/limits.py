"""How much a contributor lends, and which experts fit in it.

Guarantees: amounts and rates are parsed exactly or refused with the forms that are understood; `fit` never lets the experts it keeps
exceed the limit, never gives up an expert that is already held for one that is not, and is a pure function.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ..amounts import AmountError, parse_bytes
from ..ids import ExpertKey

_BITS = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)(?:bit|bps)\s*", re.ASCII | re.IGNORECASE)
UNLIMITED = "unlimited"


def parse_rate(text: str) -> int:
    """Reads bytes a second: '5MiB/s', '5MB', as providers write them '40Mbit/s' or '40Mbps', or 'unlimited', which is 0.

    Raises:
        AmountError: when it is none of these.
    """
    rate = text.strip().lower().removesuffix("/s")
    if rate in (UNLIMITED, "0"):
        return 0
    bits = _BITS.fullmatch(rate)
    try:
        if bits is None:
            return parse_bytes(rate)
        eighths = Decimal(bits[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[bits[2]]
        return parse_bytes(str(int(eighths / 8)))
    except AmountError:
        raise AmountError(
            f"{text!r} is no rate", advice=f"write it like 5MiB/s, 40Mbit/s or {UNLIMITED}"
        ) from None


@dataclass(frozen=True)
class Fit:
    """Which experts of an assignment a node takes, in the order of the assignment, and which are too many."""

    kept: tuple[ExpertKey, ...]
    refused: tuple[ExpertKey, ...]


def fit(
    assigned: Sequence[ExpertKey],
    held: Collection[ExpertKey],
    sizes: Mapping[ExpertKey, int],
    limit_bytes: int,
) -> Fit:
    """Chooses among assigned experts: first those that are held, then in the order of the assignment.

    Args:
        assigned: What the coordinator wants; `sizes` knows each.
        held: What the node has in memory now.
        sizes: Bytes of each expert.
        limit_bytes: What all kept experts may have together.
    """
    have = frozenset(held)
    left = limit_bytes
    kept: set[ExpertKey] = set()
    for key in sorted(assigned, key=lambda key: key not in have):
        if sizes[key] <= left:
            left -= sizes[key]
            kept.add(key)
    return Fit(
        kept=tuple(key for key in assigned if key in kept),
        refused=tuple(key for key in assigned if key not in kept),
    )
