"""One thing that was looked at.

Guarantees: what has to be mended says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How it stands."""

    FIT = "fit"
    NOTE = "note"
    """Worth knowing; the node works as it is."""
    MEND = "mend"


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        name: What was looked at.
        grade: How it stands.
        says: What was found.
        mend: How to mend it, or make it better; empty when there is nothing to do.
    """

    name: str
    grade: Grade
    says: str
    mend: str = ""

    def __post_init__(self) -> None:
        if self.grade is Grade.MEND and not self.mend:
            raise ValueError(f"{self.name}: what has to be mended must say how")

    def line(self) -> str:
        """For people."""
        return f"{self.grade:<5} {self.name}: {self.says}" + (f"\n      -> {self.mend}" if self.mend else "")


def fit(name: str, says: str) -> Finding:
    """All is well."""
    return Finding(name, Grade.FIT, says)


def note(name: str, says: str, mend: str = "") -> Finding:
    """Worth knowing."""
    return Finding(name, Grade.NOTE, says, mend)


def to_mend(name: str, says: str, mend: str) -> Finding:
    """Has to be mended."""
    return Finding(name, Grade.MEND, says, mend)
