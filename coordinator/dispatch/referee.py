"""Who looks after second answers when the call that asked for them has gone on.

Guarantees: no call waits for an answer that lost its race, and no event loop checks one; the thread begins with the first such answer
and ends when there has been nothing to do for a while.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Final

from .answering import LateAnswers

log = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""After so long without work the thread ends."""


class Referee:
    """Of one coordinator's dispatch. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[LateAnswers] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = False

    def look_at(self, answers: LateAnswers) -> None:
        """Some of these may have come."""
        with self._lock:
            self._waiting.put(answers)
            if not self._running:
                threading.Thread(target=self._run, name="folkmoot-referee", daemon=True).start()
                self._running = True

    def _run(self) -> None:
        while True:
            try:
                answers = self._waiting.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._running = False
                        return
                continue
            try:
                answers.take()
            except Exception:
                log.exception("a second answer cannot be looked at")
