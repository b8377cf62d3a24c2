"""All of auditing, assembled for one coordinator.

Guarantees: `close` ends every thread and task that `start` began; whoever evidence in the state folder convicts is out before any
node can attach, and orders of the operator are obeyed, whether results are audited or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ...ids import NodeId
from ...trust.keys import Identity
from ..dispatch.network_experts import NetworkExperts
from ..dispatch.verified_result import RivalsWatcher, Watcher
from ..hub.experts_service import ExpertSource
from ..ledger.public_log import EntryLog
from .auditor import Auditor
from .canonical_weights import CanonicalExperts
from .counters import AuditCounters
from .evidence_keeper import EvidenceKeeper
from .hearing import OwnerOf
from .judge import Judge
from .orders import OrderBox
from .past_verdicts import uphold
from .preparing import AUDIT_FOLDER
from .private_counts import PrivateCounts
from .published_counts import PublishedCounts
from .settings import AuditSettings
from .sketch_keeper import SketchKeeper
from .standing_book import StandingBook


class Auditing:
    """The audits of one coordinator.

    Attributes:
        watcher: Is to be handed every verified result; None when nothing is audited.
        rivals_watcher: Is to be handed second answers; None when nothing is audited.
        unusable_watcher: Is to be handed signed results that nothing can be computed with; None when nothing is audited.
        published: What everybody may know of audits.
        evidence: Takes what proves verdicts; None when nothing is audited.
    """

    def __init__(
        self,
        state: Path,
        source: ExpertSource,
        identity: Identity,
        standings: StandingBook,
        counters: AuditCounters,
        settings: AuditSettings,
        entry_log: EntryLog | None = None,
    ) -> None:
        """Reads or makes the secret; starts nothing. `entry_log` is told of verdicts.

        Raises:
            TrustError: when the secret's file is not what it must be.
        """
        self._standings = standings
        self._orders = OrderBox(state)
        self._tasks: list[asyncio.Task[None]] = []
        self.published = PublishedCounts(counters.totals)
        self._private_counts = PrivateCounts(state, counters.totals, self.published)
        self._sketches: SketchKeeper | None = None
        self._auditor: Auditor | None = None
        self.watcher: Watcher | None = None
        self.rivals_watcher: RivalsWatcher | None = None
        self.unusable_watcher: Watcher | None = None
        self.evidence: EvidenceKeeper | None = None
        self._keeper = keeper = EvidenceKeeper(state, entry_log)
        # The operator's word comes after what it may be about.
        uphold(keeper, identity.public, standings)
        self._orders.obey(standings)
        if settings.enabled:
            folder, experts = state / AUDIT_FOLDER, CanonicalExperts(source)
            self._sketches = SketchKeeper(folder, experts, settings.projections, settings.epoch_s)
            self.evidence = keeper
            judge = Judge(keeper, experts, identity)
            self._auditor = Auditor(folder, experts, self._sketches, judge, standings, counters, settings)
            self.watcher, self.rivals_watcher = self._auditor.watch, self._auditor.watch_rivals
            self.unusable_watcher = self._auditor.watch_unusable

    def trusts(self, node: NodeId) -> bool:
        """Whether a node's results may be used, as it stands now. Any thread."""
        return self._standings.of(node).serves

    def tell_convictions(self, on_convicted: Callable[[NodeId], None]) -> None:
        """From now on calls the function after each verdict against a node: from the auditor's thread, and from any that calls
        `convicted_elsewhere`."""
        if self._auditor is not None:
            self._auditor.consequences.on_convicted = on_convicted

    def convicted_elsewhere(self, node: NodeId) -> None:
        """A verdict was found against a node by somebody else, and the node stands accordingly. Any thread."""
        if self._auditor is not None:
            self._auditor.consequences.on_convicted(node)

    def call_witnesses(self, network: NetworkExperts, owner_of: OwnerOf = str) -> None:
        """From now on two unrelated nodes are asked, through this network, where the weights are not at hand."""
        if self._auditor is not None:
            self._auditor.hearings.use(network, owner_of)

    def start(self) -> None:
        """Starts its threads, and a task on the running event loop."""
        self._tasks = [asyncio.create_task(self._orders.watch(self._standings))]
        if self._sketches is not None and self._auditor is not None:
            self._tasks.append(asyncio.create_task(self._private_counts.keep()))
            self._sketches.start()
            self._auditor.start()

    async def close(self) -> None:
        """Ends them. Harmless before `start`, and twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for part in (self._auditor, self._sketches, self._keeper):
            if part is not None:
                await asyncio.to_thread(part.close)
        if self._auditor is not None:
            await asyncio.to_thread(self._private_counts.write)
