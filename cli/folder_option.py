"""Folders on the command line.

Guarantees: an empty text is refused: it is a shell variable that is not set, and would mean the folder that one is in.
"""

from __future__ import annotations

from pathlib import Path

import typer


def folder(text: str) -> Path:
    """What an option or argument names."""
    if not text:
        raise typer.BadParameter("it is empty, and no folder")
    return Path(text)
