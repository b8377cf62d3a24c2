"""Where the books are, as a URL.

Guarantees: what comes out names a file or a PostgreSQL database, with a driver that is installed; an error never repeats what was
given, for it may hold a password.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from .errors import BooksUrlError
from .settings import BooksSettings

BOOKS_FILE: Final = "books.sqlite"


def books_url(settings: BooksSettings, folder: Path) -> URL:
    """The books' URL; a file in the state folder if the settings have none. Raises BooksUrlError."""
    if not settings.url:
        return URL.create("sqlite", database=str(folder / BOOKS_FILE))
    try:
        url = make_url(settings.url)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        url.get_dialect()
    except ModuleNotFoundError as error:
        raise BooksUrlError(
            f"the driver for {url.drivername} is not installed", advice="pip install 'folkmoot[postgres]'"
        ) from error
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise BooksUrlError(
            "the URL of the books cannot be read", advice="write it as postgresql://USER@HOST/DATABASE"
        ) from error
    if (
        url.get_backend_name() not in ("sqlite", "postgresql")
        or not url.database
        or url.database == ":memory:"
    ):
        raise BooksUrlError(
            f"books cannot be kept in {url.drivername} {url.database or 'without a name'}",
            advice="name a PostgreSQL database, postgresql://USER@HOST/DATABASE, or a file, sqlite:////PATH",
        )
    return url
