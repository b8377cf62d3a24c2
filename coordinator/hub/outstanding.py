"""The frames that one link has out, and those that wait for room: a pure state machine.

Guarantees: sequence numbers are given in the order in which frames go out, from 1 on, without gaps; rows out never exceed
the bound, but for a single frame that is larger than it; a frame leaves exactly once.
"""

from __future__ import annotations

from collections import deque

from ...errors import WireError
from ..dispatch.host import SentFrame

REMEMBERED = 4096
"""How many frames that ran out of time are remembered, to tell a late answer from a repeated one."""


class UnwantedResultError(WireError):
    """An answer to nothing that is out."""

    reason = "unwanted"


class LateResultError(UnwantedResultError):
    """An answer to a frame whose time had run out."""

    reason = "late"


class ReplayedResultError(UnwantedResultError):
    """A second answer to a frame."""

    reason = "replayed"


class UnaskedResultError(UnwantedResultError):
    """An answer to a frame that was never sent."""

    reason = "unasked"


class Outstanding:
    """Frames of one link."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._out: dict[int, SentFrame] = {}
        self._waiting: deque[SentFrame] = deque()
        self._late: deque[int] = deque(maxlen=REMEMBERED)
        self._last = 0
        self._rows_out = self._rows_waiting = 0

    @property
    def rows(self) -> int:
        """Rows that are out."""
        return self._rows_out

    @property
    def rows_ahead(self) -> int:
        """Rows that a frame offered now would be behind: out and waiting."""
        return self._rows_out + self._rows_waiting

    @property
    def ended_through(self) -> int:
        """The last frame up to which all have ended: were answered, refused, or given up."""
        return next(iter(self._out), self._last + 1) - 1

    def __len__(self) -> int:
        return len(self._out)

    def offer(self, frame: SentFrame) -> None:
        """A frame joins those that wait for room."""
        self._waiting.append(frame)
        self._rows_waiting += frame.rows

    def admit(self) -> list[SentFrame]:
        """The frames that go out now, with their sequence numbers."""
        admitted = []
        while self._waiting and (not self._out or self._rows_out + self._waiting[0].rows <= self._max_rows):
            frame = self._waiting.popleft()
            self._rows_waiting -= frame.rows
            self._rows_out += frame.rows
            self._last += 1
            frame.sequence = self._last
            self._out[frame.sequence] = frame
            admitted.append(frame)
        return admitted

    def take(self, sequence: int) -> SentFrame:
        """The frame that an answer belongs to; it is out no more.

        Raises:
            UnaskedResultError, LateResultError, ReplayedResultError: when it belongs to none.
        """
        frame = self._out.pop(sequence, None)
        if frame is None:
            if not 0 < sequence <= self._last:
                raise UnaskedResultError(f"an answer to frame {sequence}, which was never sent")
            if sequence in self._late:
                raise LateResultError(f"the answer to frame {sequence} came too late")
            raise ReplayedResultError(f"another answer to frame {sequence}")
        self._rows_out -= frame.rows
        return frame

    def expire(self, sequence: int) -> SentFrame:
        """The frame's time has run out; its answer will be late."""
        frame = self.take(sequence)
        self._late.append(sequence)
        return frame

    def drain(self) -> list[SentFrame]:
        """Everything that is out or waits; nothing is, after this."""
        frames = [*self._out.values(), *self._waiting]
        self._out.clear()
        self._waiting.clear()
        self._rows_out = self._rows_waiting = 0
        return frames
