"""Whether a node works now: what its contributor said, and the hours of the day.

Guarantees: what the contributor said last comes before the hours: a pause lasts until it is resumed, and a node that is resumed
outside of its hours works until they have begun and ended again. Pure: the local time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .hours import Hours

BY_HAND = "the contributor paused it"


@dataclass
class Duty:
    """One node's."""

    hours: Hours
    _paused: str = ""
    _overtime: bool = False

    def pause(self, reason: str = "") -> None:
        """No work until `resume`."""
        self._paused, self._overtime = reason or BY_HAND, False

    def resume(self, now: datetime) -> None:
        """Work, whatever the hours say, until they begin again."""
        self._paused, self._overtime = "", not self.hours.hold(now)

    def reason_to_rest(self, now: datetime) -> str:
        """Why the node is to rest at this local time; empty when it is to work."""
        if self._paused:
            return self._paused
        if self.hours.hold(now):
            self._overtime = False
            return ""
        if self._overtime:
            return ""
        begins = self.hours.next_begin(now)
        return f"outside of its hours ({self.hours}); back at {begins:%H:%M}" if begins else ""
