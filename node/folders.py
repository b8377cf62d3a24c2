"""Folders that need not be there yet.

Guarantees: nothing is made; a folder that cannot be used is an error that names it, whatever the system says of it.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError


class UnusableFolderError(UsageError):
    """A path that this user cannot have a folder at."""


def full_path(text: str) -> Path:
    """The path with `~` and the present folder written out.

    Raises:
        UnusableFolderError: when it is in the home of a user that there is not.
    """
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:
        raise _unusable(text, error) from error


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there.

    Raises:
        UnusableFolderError: when that cannot be seen.
    """
    folder = folder.absolute()
    try:
        return next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise _unusable(str(folder), error) from error


def _unusable(path: str, error: Exception) -> UnusableFolderError:
    said = error.strerror if isinstance(error, OSError) else None
    return UnusableFolderError(
        f"{path} cannot be used ({said or error})", advice="name a folder that you may write to"
    )
