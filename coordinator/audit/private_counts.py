"""The exact counts of audits, for the operator's eyes.

Guarantees: they are in one file of the state folder that only its owner can read, in Prometheus' text, a few seconds old while the
coordinator runs; a disk that does not take it stops nothing. Whoever could read it call by call would learn of the secret projections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from .counters import AuditTotals
from .metrics import AuditCollector
from .private_files import write_private
from .published_counts import PublishedCounts

log = logging.getLogger(__name__)

COUNTS_FILE: Final = "audits.prom"
WRITTEN_EVERY_S: Final = 5.0


class PrivateCounts:
    """Of one coordinator."""

    def __init__(self, state: Path, totals: Callable[[], AuditTotals], published: PublishedCounts) -> None:
        """`published` is told of the time."""
        self._path = state / COUNTS_FILE
        self._published = published
        self._registry = CollectorRegistry()
        self._registry.register(AuditCollector(totals))
        self._written = b""

    def write(self) -> None:
        """Writes the file, if there is anything new."""
        content = generate_latest(self._registry)
        if content == self._written:
            return
        try:
            write_private(self._path, content, durable=False)
            self._written = content
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error.strerror)

    async def keep(self) -> None:
        """Writes it again and again, until cancelled."""
        while True:
            self._published.look()
            await asyncio.to_thread(self.write)
            await asyncio.sleep(WRITTEN_EVERY_S)
