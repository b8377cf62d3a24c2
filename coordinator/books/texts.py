"""Text from outside, made such that every database takes it.

Guarantees: what `storable` returns is valid UTF-8 without NUL; text that is both already stays as it is.
"""

from __future__ import annotations


def storable(text: str) -> str:
    """The text, with what no database takes replaced."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
