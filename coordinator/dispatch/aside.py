"""What calls leave to be done when they go on: checking what was used, and looking after answers that lost their race.

Guarantees: what is left is done in the order in which it was left, by one thread that begins with the first and ends when there has been
nothing to do for a while; no call waits for it, and no event loop does it; a fault in one harms no other.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""After so long without work the thread ends."""


class Aside:
    """Of one coordinator's dispatch. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = False

    def leave(self, task: Callable[[], None]) -> None:
        """Something to do once all that was left before is done."""
        with self._lock:
            self._waiting.put(task)
            if not self._running:
                threading.Thread(target=self._run, name="folkmoot-aside", daemon=True).start()
                self._running = True

    def _run(self) -> None:
        while True:
            try:
                task = self._waiting.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._running = False
                        return
                continue
            try:
                task()
            except Exception:
                log.exception("what a call has left to be done met a fault")
