"""The small text files in which Linux says what a machine and its containers have.

Guarantees: one that is not there, or cannot be read, is None.
"""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """What the file says, without the white space around it."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None
