"""`folkmoot node doctor`: whether this machine is fit to be a node."""

from __future__ import annotations


def doctor() -> None:
    """Look whether this machine is fit, and say what to mend."""
