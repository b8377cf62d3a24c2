"""A hub on loopback with scripted nodes, and a pool over it, all on the test's event loop.

Guarantees: leaving the context ends every node, then the hub; waiting is for conditions, with a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from folkmoot.coordinator.audit.evidence_keeper import EvidenceKeeper
from folkmoot.coordinator.audit.settings import AuditSettings
from folkmoot.coordinator.audit.standing_book import StandingBook
from folkmoot.coordinator.books.contributors import Contributors
from folkmoot.coordinator.books.placement_memory import PlacementMemory
from folkmoot.coordinator.dispatch.counters import DispatchCounters
from folkmoot.coordinator.dispatch.network_experts import DispatchSettings, NetworkExperts
from folkmoot.coordinator.hub.hub import Hub
from folkmoot.coordinator.hub.settings import HubSettings
from folkmoot.coordinator.hub.snapshot import NodeSnapshot
from folkmoot.coordinator.ledger.public_log import EntryLog
from folkmoot.coordinator.probe.assembling import make_prober
from folkmoot.coordinator.probe.settings import ProbeSettings
from folkmoot.ids import NodeId
from folkmoot.models.pool import StepTally
from folkmoot.trust.keys import Identity
from folkmoot.trust.tls import TlsIdentity

from .memory_experts import MemoryExperts
from .scripted_node import Fault, ScriptedNode

JOIN_SECRET = bytes(range(16))
FAST = {
    "port": 0,
    "settle_s": 0.02,
    "ping_interval_s": 0.05,
    "silence_s": 20.0,
    "lost_grace_s": 0.1,
    "frame_deadline_s": 5.0,
}


@dataclass(frozen=True)
class Probing:
    """That nodes are probed: where a coordinator keeps its state, how, whether a wrong answer is a verdict, and who hears of one."""

    folder: Path
    settings: ProbeSettings = ProbeSettings()  # noqa: RUF009 - frozen
    audited: bool = True
    on_convicted: Callable[[NodeId], None] = lambda node: None


class RunningHub:
    """A hub and what tests do with it."""

    def __init__(
        self,
        model: MemoryExperts,
        hub: HubSettings,
        dispatch: DispatchSettings,
        memory: PlacementMemory | None,
        standings: StandingBook | None,
        entry_log: EntryLog | None,
        probing: Probing | None,
        contributors: Contributors | None,
    ) -> None:
        self.model = model
        self.identity = Identity.generate()
        self.counters = DispatchCounters()
        self.standings = standings or StandingBook(None, AuditSettings(enabled=False).standing)
        self.hub = Hub(
            hub,
            self.identity,
            TlsIdentity.generate(self.identity),
            JOIN_SECRET,
            model,
            self.counters,
            memory,
            self.standings,
            entry_log,
            contributors=contributors,
            prober=None
            if probing is None
            else make_prober(
                probing.folder,
                model,
                self.identity,
                self.counters,
                self.standings,
                probing.settings,
                evidence=EvidenceKeeper(probing.folder) if probing.audited else None,
                on_convicted=probing.on_convicted,
            ),
        )
        self.pool = NetworkExperts(
            asyncio.get_running_loop(),
            self.hub.directory,
            model.manifest,
            self.identity.public,
            self.counters,
            dispatch,
        )
        self.nodes: list[ScriptedNode] = []
        self.calls: list[asyncio.Task[torch.Tensor]] = []

    async def join(self, fault: Fault | None = None, **options: Any) -> ScriptedNode:
        """Starts a scripted node and waits until the hub knows that it is attached, or has attached it and cut it off."""
        node = ScriptedNode(self.hub.invite, self.model, fault=fault, **options)
        self.nodes.append(node)
        await node.join()
        await self.until(
            lambda: node.closing is not None or self.seen(node).state.value not in ("lost", "quarantined")
        )
        return node

    async def join_ready(self, *faults: Fault | None, **options: Any) -> list[ScriptedNode]:
        """Starts one node for each fault and waits until each holds what it shall hold."""
        nodes = [await self.join(fault, **options) for fault in faults]
        await self.settled()
        return nodes

    async def settled(self) -> None:
        """Waits until every attached node reports ready for something, and all experts are covered."""
        await self.until(
            lambda: (
                self.hub.covered()
                and all(
                    node.state.value == "ready" and node.experts
                    for node in self.hub.snapshot().nodes
                    if node.state.value not in ("lost", "quarantined")
                )
            )
        )

    async def until(self, condition: Callable[[], object], limit_s: float = 60.0) -> None:
        """Waits for a condition."""
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.005)

    def seen(self, node: ScriptedNode | NodeId) -> NodeSnapshot:
        """What the hub says of a node."""
        wanted = node.node if isinstance(node, ScriptedNode) else node
        return next(seen for seen in self.hub.snapshot().nodes if seen.id == wanted)

    async def call(
        self,
        layer: int,
        routing: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        tally: StepTally | None = None,
    ) -> torch.Tensor:
        """One layer call, waited for in another thread as a lane does."""
        tally = tally if tally is not None else StepTally()
        return await asyncio.to_thread(lambda: self.pool.submit(layer, *routing, tally).result())

    async def check_waits_for(self, node: ScriptedNode) -> None:
        """Starts a call that ends without this node's answer, and waits until the node has its frame."""
        self.calls.append(asyncio.create_task(self.call(0, self.model.routing(1))))
        await self.until(lambda: node.frames)

    async def check(self, layer: int, *, rows: int = 3, seed: int = 1) -> StepTally:
        """One layer call whose answer must be the oracle's."""
        tally = StepTally()
        routing = self.model.routing(rows, seed=seed)
        answer = await self.call(layer, routing, tally)
        torch.testing.assert_close(answer, self.model.answer(layer, *routing), rtol=1e-5, atol=1e-4)
        assert tally.layers == 1
        return tally


@asynccontextmanager
async def running_hub(
    model: MemoryExperts | None = None,
    *,
    dispatch: dict[str, Any] | None = None,
    memory: PlacementMemory | None = None,
    standings: StandingBook | None = None,
    entry_log: EntryLog | None = None,
    probing: Probing | None = None,
    contributors: Contributors | None = None,
    **hub: Any,
) -> AsyncIterator[RunningHub]:
    """A hub that listens, with settings for tests; `hub` and `dispatch` override them."""
    running = RunningHub(
        model or MemoryExperts(),
        HubSettings(**{**FAST, **hub}),
        DispatchSettings(**{"expert_wait_s": 2.0, "hedge_share": 0.0, **(dispatch or {})}),
        memory,
        standings,
        entry_log,
        probing,
        contributors,
    )
    await running.hub.start()
    try:
        yield running
    finally:
        for node in running.nodes:
            await node.leave()
        await running.hub.stop()
        await asyncio.gather(*running.calls, return_exceptions=True)
