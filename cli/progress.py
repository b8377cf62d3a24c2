"""Progress of long work on standard error: bars on a terminal, a plain line every few seconds elsewhere.

Guarantees: both tell sizes, rate and time left, and neither touches standard output.
"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from ..amounts import format_bytes
from .terminal import say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_INTERVAL_S = 3.0


class LineProgress:
    """Says how far the work is, every few seconds."""

    def __init__(self) -> None:
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._said = 0.0
        self._said_bytes = 0

    def start(self, label: str, total_bytes: int | None) -> None:
        """A piece of work begins."""
        self._label, self._total, self._done, self._said_bytes = label, total_bytes, 0, 0
        self._began = self._said = monotonic()
        say(label + (f" ({format_bytes(total_bytes)})" if total_bytes else ""))

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        if monotonic() - self._said >= LINE_INTERVAL_S:
            self._tell()

    def finish(self) -> None:
        """The piece of work is over."""
        if self._said > self._began and self._done > self._said_bytes:
            self._tell()

    def _tell(self) -> None:
        self._said, self._said_bytes = monotonic(), self._done
        say(self._line())

    def _line(self) -> str:
        rate = self._done / max(monotonic() - self._began, 1e-9)
        line = f"{self._label}: {format_bytes(self._done)}"
        if self._total:
            line += f" of {format_bytes(self._total)} ({self._done / self._total:.0%})"
        line += f", {format_bytes(rate)}/s"
        if self._total and rate and self._done < self._total:
            line += f", {(self._total - self._done) / rate:.0f} s left"
        return line


class BarProgress:
    """Draws a bar for each piece of work."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total_bytes: int | None) -> None:
        """A piece of work begins."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bars.add_task(label, total=total_bytes)
        self._bars.start()

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)

    def finish(self) -> None:
        """The piece of work is over."""
        if self._bars is not None:
            self._bars.stop()


def terminal_progress() -> LineProgress | BarProgress:
    """What suits where standard error goes."""
    return BarProgress() if sys.stderr.isatty() else LineProgress()
