"""An auditor over a model in memory, without hub or network.

Guarantees: everything it keeps lies below one folder; it has ended when the context is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from folkmoot.coordinator.audit.auditor import Auditor
from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.coordinator.audit.counters import AuditCounters, AuditTotals
from folkmoot.coordinator.audit.evidence_keeper import EVIDENCE_FOLDER, EvidenceKeeper
from folkmoot.coordinator.audit.judge import Judge
from folkmoot.coordinator.audit.settings import AuditSettings
from folkmoot.coordinator.audit.sketch_keeper import SketchKeeper
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.trust.keys import Identity
from folkmoot.trust.log_entries import LogEntry

from .asked_node import AskedNode, Misconduct
from .memory_experts import MemoryExperts

PATIENCE_S = 60.0


class KeptEntries:
    """A public log in memory.

    Attributes:
        entries: What it was told.
        error: What it fails with instead of keeping an entry.
    """

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.error: Exception | None = None

    def append(self, entry: LogEntry) -> Future[int]:
        """Keeps an entry at once, or fails."""
        future: Future[int] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            self.entries.append(entry)
            future.set_result(len(self.entries) - 1)
        return future


class RunningAuditor:
    """The auditor and what it works with."""

    def __init__(
        self,
        folder: Path,
        model: MemoryExperts,
        settings: AuditSettings,
        identity: Identity | None = None,
        standings: StandingBook | None = None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.identity = identity or Identity.generate()
        self.experts = CanonicalExperts(model)
        self.standings = standings or StandingBook(None, settings.standing)
        self.counters = AuditCounters()
        self.sketches = SketchKeeper(folder, self.experts, settings.projections, settings.epoch_s)
        self.log = KeptEntries()
        self.keeper = EvidenceKeeper(folder, self.log)
        judge = Judge(self.keeper, self.experts, self.identity)
        self.auditor = Auditor(
            folder, self.experts, self.sketches, judge, self.standings, self.counters, settings
        )

    def node(self, *does: Misconduct, **options: Any) -> AskedNode:
        """A node of this coordinator's."""
        return AskedNode(self.model, self.identity.public, *does, **options)

    @property
    def evidence(self) -> list[Path]:
        """The evidence that has been written."""
        return sorted((self.folder / EVIDENCE_FOLDER).glob("*"))

    def until(self, condition: Callable[[AuditTotals], bool]) -> AuditTotals:
        """Waits for the counts to be so."""
        end_s = time.monotonic() + PATIENCE_S
        while not condition(self.counters.totals()):
            if time.monotonic() > end_s:
                raise TimeoutError(f"the auditor has come to {self.counters.totals()}")
            time.sleep(0.002)
        return self.counters.totals()

    def ended(self, audits: int) -> AuditTotals:
        """Waits until so many audits have ended."""
        return self.until(lambda totals: sum(totals.outcomes.values()) >= audits)


@contextmanager
def running_auditor(
    folder: Path,
    model: MemoryExperts | None = None,
    *,
    identity: Identity | None = None,
    standings: StandingBook | None = None,
    **settings: Any,
) -> Iterator[RunningAuditor]:
    """A started auditor; `settings` are audit settings by name."""
    model = model or MemoryExperts(hidden=64, intermediate=48)
    running = RunningAuditor(folder, model, AuditSettings(**settings), identity, standings)
    running.auditor.start()
    try:
        yield running
    finally:
        running.auditor.close()
        running.sketches.close()
        running.keeper.close()
