"""Amounts of bytes, as people write and read them.

Guarantees: an amount is parsed exactly, or refused with the forms that are understood.
"""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import UsageError

_STEP = 1024
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


def format_bytes(amount: float) -> str:
    """An amount in binary units, with one place behind the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < _STEP:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _STEP
    return f"{amount:.1f} TiB"
