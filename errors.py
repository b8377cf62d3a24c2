"""The one error tree.

Guarantees: every error that Folkmoot raises on purpose derives from `FolkmootError`; its text is one line that says what
is wrong and, in `advice`, what to do about it; `exit_code` is what a command ends with when the error reaches it. Rooms
derive their own errors from the families below, next to the code that raises them.
"""

from __future__ import annotations


class FolkmootError(Exception):
    """Something went wrong in a way that we can name.

    Args:
        message: What is wrong, one line, no trailing full stop.
        advice: What the reader can do about it, one line; empty when there is nothing to do.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message}: {self.advice}" if self.advice else self.message


class UsageError(FolkmootError):
    """The caller asked for something that makes no sense; asking differently helps."""

    exit_code = 2


class ModelError(FolkmootError):
    """A checkpoint, manifest or expert blob is missing, damaged, or of a kind that is not supported."""

    exit_code = 3


class TrustError(FolkmootError):
    """A key, signature, digest or certificate is not what it must be."""

    exit_code = 4


class WireError(FolkmootError):
    """A peer sent bytes that break the wire contract."""

    exit_code = 5


class CapacityError(FolkmootError):
    """Memory, disk or another limit is too small for what was asked."""

    exit_code = 6


class UnavailableError(FolkmootError):
    """Something that should answer does not: a network, a node, a port, the host of an expert."""

    exit_code = 7
