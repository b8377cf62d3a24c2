"""What can be wrong with the books.

Guarantees: an error of the database comes out as one of these, says which books are meant, never with a password, and what to do.
"""

from __future__ import annotations

from ...errors import CapacityError, FolkmootError, TrustError, UnavailableError, UsageError


class BooksUrlError(UsageError):
    """The address of the books makes no sense, or its driver is not installed."""


class ForeignBooksError(UsageError):
    """The books are another coordinator's, or of a later version."""


class BooksInUseError(UnavailableError):
    """Another coordinator writes these books."""


class BooksUnavailableError(UnavailableError):
    """The books cannot be read or written now; later they may."""


class BooksFullError(CapacityError):
    """The disk that the books are on takes no more."""


class BooksDamagedError(TrustError):
    """What the books hold cannot be right."""


class BooksFaultError(FolkmootError):
    """The database refuses what was to be written: a fault of ours, or of what was changed by hand."""
