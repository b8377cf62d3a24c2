"""What an operator may choose about the books.

Guarantees: values that make no sense are refused when the settings are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import UsageError


@dataclass(frozen=True)
class BooksSettings:
    """Where the books are, and how long they keep what is history.

    Attributes:
        url: A database as SQLAlchemy names it, such as postgresql://user@host/folkmoot; empty for a file in the state folder.
        busy_s: How long a write waits for another that has the books locked, before it is told and tried again.
        keep_days: After how many days ended sessions, expired tickets, changes of state, and nodes that earned
            nothing are forgotten; credits never are.
    """

    url: str = field(default="", repr=False)
    busy_s: float = 5.0
    keep_days: int = 90

    def __post_init__(self) -> None:
        if self.busy_s <= 0 or self.keep_days < 1:
            raise UsageError(
                "books.busy_s must be above 0 and books.keep_days at least 1",
                advice="see the configuration's defaults",
            )
