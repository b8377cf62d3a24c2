"""What waits for the executor's thread: frames first, and what is patient when there are none or when it has waited long enough.

Guarantees: frames come out in the order in which they were put in, patient work too; patient work never comes before a frame
that was put in before it, nor before a later one that waits unless its patience is over: so audits neither hold up answers nor
wait for ever. Any thread may put, one takes.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")


class _Nudge:
    """Stands in the queue for patient work, so that the thread wakes for it."""


_NUDGE: Final = _Nudge()


class WorkQueue(Generic[Item]):
    """The queue of one executor."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Item | _Nudge] = queue.SimpleQueue()
        self._patient: deque[tuple[Item, float]] = deque()

    def put(self, item: Item) -> None:
        """A frame."""
        self._items.put(item)

    def put_patient(self, item: Item, patient_until_s: float) -> None:
        """Work that lets frames go first until this moment of the monotonic clock."""
        self._patient.append((item, patient_until_s))
        self._items.put(_NUDGE)

    def get(self) -> Item:
        """The next; waits until there is one."""
        while True:
            item = self._items.get()
            if not isinstance(item, _Nudge):
                return item
            # There are as many nudges as patient items, this one too; whatever else is in the queue is to go first.
            others = self._items.qsize() - (len(self._patient) - 1)
            if others <= 0 or time.monotonic() >= self._patient[0][1]:
                return self._patient.popleft()[0]
            self._items.put(_NUDGE)

    def get_waiting(self) -> Item:
        """The next frame, for whoever is at patient work; does not wait.

        Raises:
            queue.Empty: when there is none.
        """
        nudges = 0
        try:
            while isinstance(item := self._items.get_nowait(), _Nudge):
                nudges += 1
            return item
        finally:
            for _ in range(nudges):
                self._items.put(_NUDGE)
