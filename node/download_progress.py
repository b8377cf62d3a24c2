"""How far one assignment is, as a line for people.

Guarantees: a line has a bar, percent, experts, bytes, the rate since the last line and the time that is left; when nothing
comes, it says who has been silent for how long, so no two such lines are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..amounts import format_bytes
from .traffic import Traffic

BAR_CELLS = 20
SILENT_S = 5.0
"""A source that was waited for so long is spoken of."""
_MEMORY = 0.5
"""How much of the rate that time left is counted with is that of lines before."""


@dataclass
class Progress:
    """Of what is to be held now.

    Attributes:
        total_bytes, total_experts: Of all experts that are to be held.
        ready_bytes, ready_experts: Of those that are.
        traffic: What downloads bring meanwhile.
    """

    total_bytes: int
    total_experts: int
    traffic: Traffic = field(default_factory=Traffic)
    ready_bytes: int = 0
    ready_experts: int = 0

    def __post_init__(self) -> None:
        self._began_s = self._last_s = self.traffic.clock()
        self._began_fetched, self._last_brought = self.traffic.fetched_bytes, self.traffic.brought_bytes
        self._usual_rate: float | None = None

    def line(self) -> str:
        """How far it is, and how fast it has been since the last line."""
        now_s, brought = self.traffic.clock(), self.traffic.brought_bytes
        rate = (brought - self._last_brought) / max(now_s - self._last_s, 1e-6)
        self._last_s, self._last_brought = now_s, brought
        usual = rate if self._usual_rate is None else _MEMORY * self._usual_rate + (1 - _MEMORY) * rate
        self._usual_rate = usual
        there = self._there()
        line = f"{self._bar(there)} {self._done(there)}, {format_bytes(rate)}/s"
        if usual and there < self.total_bytes:
            line += f", {_duration((self.total_bytes - there) / usual)} left"
        waiting = self.traffic.longest_wait()
        if waiting is not None and waiting[1] >= SILENT_S:
            line += f"; {waiting[0]} has sent nothing for {waiting[1]:.0f} s"
        return line

    def summary(self) -> str:
        """What was reached, and what it took."""
        took_s = self.traffic.clock() - self._began_s
        fetched = self.traffic.fetched_bytes - self._began_fetched
        return f"{self._done(self.ready_bytes)}, {format_bytes(fetched)} fetched in {took_s:.1f} s"

    def _there(self) -> int:
        """Bytes that need not come any more, of unfinished experts too."""
        return min(self.ready_bytes + self.traffic.unready_bytes, self.total_bytes)

    def _bar(self, there: int) -> str:
        cells = BAR_CELLS * there // self.total_bytes if self.total_bytes else BAR_CELLS
        return f"[{'#' * cells}{'.' * (BAR_CELLS - cells)}]"

    def _done(self, there: int) -> str:
        percent = 100 * there // self.total_bytes if self.total_bytes else 100
        return (
            f"{percent} % ({self.ready_experts} of {self.total_experts} experts, "
            f"{format_bytes(there)} of {format_bytes(self.total_bytes)})"
        )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
