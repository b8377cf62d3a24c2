"""Evidence, checked as anybody would: by the command, against the public model, with no network."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import typer

from ...cli import audit
from ...trust.evidence_check import Outcome


def verifies(path: Path, model: Path) -> bool:
    """Whether `folkmoot audit verify` finds the evidence proven."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            audit.verify(path, model, None)
    except typer.Exit as ended:
        return ended.exit_code == Outcome.PROVEN.exit_code
    return False
