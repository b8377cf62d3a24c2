"""The hours of the day in which a node works, as people write them: `22:00-07:00`, in the machine's local time.

Guarantees: hours are read exactly or refused with the form that is understood; a stretch that ends before it begins goes over
midnight, and one that ends when it begins is the whole day; no hours at all mean always. Everything here is a pure function
of the time it is given, to the minute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time

from ..errors import UsageError

_STRETCH = re.compile(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", re.ASCII)
_DAY_MINUTES = 24 * 60


class HoursError(UsageError):
    """Hours that nobody can read."""


@dataclass(frozen=True)
class Stretch:
    """From a minute of the day up to another one, which may be on the next day.

    Attributes:
        begins, ends: Minutes since midnight, the end not included.
    """

    begins: int
    ends: int

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """Reads '22:00-07:00'; 24:00 is the end of a day. Raises HoursError."""
        match = _STRETCH.fullmatch(text)
        if match is not None:
            begins, ends = (int(match[part]) * 60 + int(match[part + 1]) for part in (1, 3))
            minutes = int(match[2]) < 60 and int(match[4]) < 60
            if minutes and begins < _DAY_MINUTES and ends <= _DAY_MINUTES:
                return cls(begins, ends % _DAY_MINUTES)
        raise HoursError(
            f"{text!r} are no hours of the day",
            advice="write them like 22:00-07:00, in this machine's local time",
        )

    def holds(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends

    def __str__(self) -> str:
        return f"{_clock(self.begins)}-{_clock(self.ends)}"


@dataclass(frozen=True)
class Hours:
    """When a node works."""

    stretches: tuple[Stretch, ...] = ()

    @classmethod
    def parse(cls, text: str | Sequence[str]) -> Hours:
        """Reads stretches, in a list or separated by commas; none, or nothing, is always. Raises HoursError."""
        parts = text.split(",") if isinstance(text, str) else text
        return cls(tuple(Stretch.parse(part) for part in parts if part.strip()))

    def hold(self, now: datetime) -> bool:
        """Whether the node works at this local time."""
        minute = now.hour * 60 + now.minute
        return not self.stretches or any(stretch.holds(minute) for stretch in self.stretches)

    def next_begin(self, now: datetime) -> time | None:
        """When, by the clock, work begins next; None where there is no such moment."""
        minute = now.hour * 60 + now.minute
        if not self.stretches:
            return None
        soonest = min(self.stretches, key=lambda stretch: (stretch.begins - minute - 1) % _DAY_MINUTES)
        return time(*divmod(soonest.begins, 60))

    def __str__(self) -> str:
        return ", ".join(map(str, self.stretches)) or "always"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
