"""What the auditor has yet to look at: verified results and openings.

Guarantees: whoever puts something in never waits. What is put in is taken out in batches, in the order in which it came, so
that a busy network wakes the auditor a few times a second and not with each result; openings, and results that somebody waits
for, wake it at once. Other results beyond the memory that was set are refused. All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, Generic, TypeVar

from ..dispatch.verified_result import VerifiedResult

LULL_S: Final = 0.1
"""How long results may lie: others that come in this time are looked at with them."""

Answer = TypeVar("Answer")


class Inbox(Generic[Answer]):
    """The auditor's."""

    def __init__(self, memory_bytes: int) -> None:
        """`memory_bytes` is what results may take that were put in and not released."""
        self._memory_bytes = memory_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._items: deque[VerifiedResult | Answer] = deque()
        self._any = threading.Event()
        self._urgent = threading.Event()

    def put(self, verified: VerifiedResult) -> bool:
        """Puts a result in; whether there was room. For one that somebody waits for there is always room: whoever waits sees to it
        that they are few.
        """
        size = verified.size
        with self._lock:
            if verified.cover is None and self._held_bytes + size > self._memory_bytes:
                return False
            self._held_bytes += size
        self._items.append(verified)
        if verified.cover is not None:
            self.wake()
        elif not self._any.is_set():
            self._any.set()
        return True

    def release(self, verified: VerifiedResult) -> None:
        """A result that was taken out is not kept any more."""
        self.free(verified.size)

    def reserve(self, size: int) -> bool:
        """Counts bytes of results that are kept for another reason; whether there was room."""
        with self._lock:
            if self._held_bytes + size > self._memory_bytes:
                return False
            self._held_bytes += size
        return True

    def free(self, size: int) -> None:
        """So many bytes are not kept any more."""
        with self._lock:
            self._held_bytes -= size

    def answer(self, answer: Answer) -> None:
        """Puts an answer in."""
        self._items.append(answer)
        self.wake()

    def wake(self) -> None:
        """Ends the wait of `take`, whatever is there."""
        self._urgent.set()
        self._any.set()

    def take(self, timeout_s: float) -> list[VerifiedResult | Answer]:
        """All that is there, once there is something or the time is over. For one thread."""
        if self._any.wait(timeout_s):
            self._urgent.wait(LULL_S)
        self._any.clear()
        self._urgent.clear()
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        return taken
