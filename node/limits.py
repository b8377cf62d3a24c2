"""How much a contributor lends, and which experts fit in it.

Guarantees: amounts are parsed exactly or refused with the forms that are understood; `fit` never lets the experts it keeps
exceed the limit, never gives up an expert that is already held for one that is not, and is a pure function.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from ..errors import UsageError
from ..ids import ExpertKey

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
}
_MOST = 1 << 60
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


class AmountError(UsageError):
    """An amount of memory or disk that nobody can read."""


def parse_bytes(text: str) -> int:
    """Reads '4GiB', '512MiB', '1.5GB' or plain bytes.

    Raises:
        AmountError: when it is none of these, nothing, or more than 1 EiB.
    """
    match = _AMOUNT.fullmatch(text)
    scale = _UNITS.get(match[2].lower()) if match else None
    amount = int(Decimal(match[1]) * scale) if match and scale else 0
    if not 0 < amount <= _MOST:
        raise AmountError(
            f"{text!r} is no amount of memory", advice="write it like 4GiB, 512MiB, 1.5GB or 4294967296"
        )
    return amount


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
