"""Amounts of bytes as people read them."""

from __future__ import annotations

_STEP = 1024


def format_bytes(amount: float) -> str:
    """An amount in binary units, with one place behind the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < _STEP:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _STEP
    return f"{amount:.1f} TiB"
