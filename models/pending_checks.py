"""Results that a step has used and that are still being checked.

Guarantees: `wait` returns when every check that began has ended, and says how many were right and how many were not. Any thread.
"""

from __future__ import annotations

import threading


class PendingChecks:
    """Those of one step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._right = 0
        self._wrong = 0

    def begin(self) -> None:
        """A result is used that has yet to be checked."""
        with self._changed:
            self._open += 1

    def end(self, *, right: bool) -> None:
        """It was."""
        with self._changed:
            self._open -= 1
            if right:
                self._right += 1
            else:
                self._wrong += 1
            if not self._open:
                self._changed.notify_all()

    def wait(self) -> tuple[int, int]:
        """How many were right, and how many were not, since it was asked last."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
            found = self._right, self._wrong
            self._right = self._wrong = 0
            return found
