"""Which epoch of secret projections it is.

Guarantees: an epoch's number is never used again once another has followed it, whatever becomes of the calendar, and over restarts: the
highest is on disk before it is used, but for the very first of all where the disk takes nothing. A new one begins with each period of the
calendar, when it is asked for (not more than once in `RENEWED_EVERY_S`), and when the calendar was set back by more than a period. Any
thread.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .private_files import write_private

log = logging.getLogger(__name__)

EPOCH_FILE: Final = "epoch.json"
FORMAT: Final = "folkmoot-epoch/1"
MAX_FILE_BYTES: Final = 4096
RENEWED_EVERY_S: Final = 3600.0
"""Sketches of a whole model cost as much as reading it: nobody can have the coordinator make them all the time."""


class Epochs:
    """Of one coordinator's projections."""

    def __init__(
        self,
        folder: Path,
        period_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes up what was kept.

        Args:
            folder: Where sketches lie, in folders that end with their epoch, and where the number is kept.
            period_s: How long an epoch is.
            clock: Seconds of the calendar: epochs go on while the coordinator does not run.
            monotonic: Seconds that nobody sets.
        """
        self._path = folder / EPOCH_FILE
        self._period_s = period_s
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._renewed_s = -math.inf
        self._asked_for = False
        now = self._period()
        kept = self._read()
        if kept is None:
            self._number, self._began = max(_highest(folder), now), now
            self._write(self._number, now)
        else:
            self._number, self._began = max(kept[0], _highest(folder)), kept[1]

    @property
    def number(self) -> int:
        """The present epoch's."""
        with self._lock:
            now = self._period()
            renews = self._asked_for and self._monotonic() >= self._renewed_s + RENEWED_EVERY_S
            # Just before the edge of a period the calendar may be set back over it, by seconds, again and again.
            if now > self._began or now < self._began - 1 or renews:
                following = max(self._number + 1, now)
                if self._write(following, now):
                    self._number, self._began = following, now
                    self._asked_for = False
                    if renews:
                        self._renewed_s = self._monotonic()
            return self._number

    def renew(self, spent: int) -> None:
        """Asks for an epoch after this one, unless there is one."""
        with self._lock:
            self._asked_for = self._asked_for or spent >= self._number

    def _period(self) -> int:
        return int(self._clock() // self._period_s)

    def _read(self) -> tuple[int, int] | None:
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(MAX_FILE_BYTES))
            if document["format"] != FORMAT:
                raise ValueError("another version")
            return int(document["number"]), int(document["period"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s cannot be read (%s): projections begin with those of today", self._path, error)
            return None

    def _write(self, number: int, period: int) -> bool:
        document = {"format": FORMAT, "number": number, "period": period}
        try:
            write_private(self._path, json.dumps(document).encode())
        except OSError as error:
            log.error("%s cannot be written (%s): projections stay as they are", self._path, error.strerror)
            return False
        return True


def _highest(folder: Path) -> int:
    """The highest epoch of which sketches are there; -1 when there are none."""
    ends = (path.name.rpartition("-")[2] for path in folder.glob("*-*-*"))
    return max((int(end) for end in ends if end.isascii() and end.isdigit()), default=-1)
