"""One real network for many adversaries: a hub with its auditor and its receipts, an honest node, and one adversary after the other.

Guarantees: links are gRPC with TLS on loopback, nodes are real daemons, calls go through `NetworkExperts` as a trunk's do; nothing of
the coordinator is told that a node cheats. Each adversary comes under a key of its own, as a newcomer or, where the arena has
such, as a node that has long been trusted. What an answer's audits wait for is compared with what an honest node answers,
whoever it is from.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from ...coordinator.audit.auditing import Auditing
from ...coordinator.audit.counters import AuditCounters
from ...coordinator.audit.evidence_keeper import EVIDENCE_FOLDER
from ...coordinator.audit.preparing import AUDIT_FOLDER
from ...coordinator.audit.question import signed_output
from ...coordinator.audit.settings import AuditSettings
from ...coordinator.audit.standing_book import StandingBook
from ...coordinator.dispatch.counters import DispatchCounters
from ...coordinator.dispatch.host import Ending, SentFrame
from ...coordinator.dispatch.network_experts import DispatchSettings, NetworkExperts
from ...coordinator.dispatch.verified_result import VerifiedResult
from ...coordinator.hub.hub import Hub
from ...coordinator.hub.settings import HubSettings
from ...errors import UnavailableError
from ...ids import ExpertKey, NodeId
from ...models.pool import StepTally
from ...models.prepared import PreparedModel
from ...node.daemon import NodeDaemon
from ...node.settings import NodeSettings
from ...protos.folkmoot.v1 import link_pb2
from ...trust.keys import Identity
from ...trust.tls import TlsIdentity
from .ledger import Ledger
from .long_standing import LongStanding
from .model import Oracle

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.001
DEADLINE_S: Final = 2.0
"""Of frames and openings; short, because adversaries that keep silent are waited for."""
CHEATED: Final = 1e-3
"""Relative difference beyond which a row is no honest node's: on one machine these differ by the order of sums alone."""
BUSY_BYTES: Final = 1e14
"""Work that an honest node may be taken to have, so that calls go to the adversary while it is there."""
MEMORY_BYTES: Final = 64 << 20


class StuckError(UnavailableError):
    """The network did not come to where it should within a minute."""


@dataclass(frozen=True)
class ArenaSettings:
    """What kind of network it is.

    Attributes:
        audits: As an operator's.
        dispatch: As an operator's; a second answer would catch many before an audit does, so there are none unless told otherwise.
        honest_is_busy: Whether the honest node is planned with only where nobody else holds an expert, or has failed.
        replicas: How many nodes hold each expert, if there are so many.
        trusted: How many nodes may come that have long been trusted; all others are newcomers.
    """

    audits: AuditSettings = field(default_factory=AuditSettings)
    dispatch: DispatchSettings = field(default_factory=lambda: DispatchSettings(hedge_share=0.0))
    honest_is_busy: bool = True
    replicas: int = 2
    trusted: int = 0


class Arena:
    """The network; see `arena`.

    Attributes:
        seen: Results that were accepted, of each node.
        always_audited: Whose results were accepted while all of theirs were audited, in order; whoever counts empties it.
        cheated: Results with wrong rows that an audited answer waited for, of each node.
    """

    def __init__(self, model: PreparedModel, folder: Path, settings: ArenaSettings) -> None:
        self.model = model
        self.oracle = Oracle(model)
        self.seen: Counter[NodeId] = Counter()
        self.always_audited: list[NodeId] = []
        self.cheated: Counter[NodeId] = Counter()
        self.audits = AuditCounters()
        self.dispatched = DispatchCounters()
        self._counting = threading.Lock()
        self._settings = settings
        self._folder = folder
        self._state = folder / "operator"
        self._nodes = 0
        self._trusted = LongStanding(folder, settings.trusted + 1 if settings.trusted else 0)
        self._trusted.note(self._state / AUDIT_FOLDER, model.manifest)
        identity = Identity.generate()
        self.standings = StandingBook(self._trusted.members, settings.audits.standing)
        self.auditing = Auditing(self._state, model, identity, self.standings, self.audits, settings.audits)
        self.ledger = Ledger(self._state, model.manifest, identity)
        self.hub = Hub(
            HubSettings(
                port=0,
                replicas=settings.replicas,
                settle_s=0.02,
                lost_grace_s=0.05,
                frame_deadline_s=DEADLINE_S,
            ),
            identity,
            TlsIdentity.generate(identity),
            secrets.token_bytes(16),
            model,
            self.dispatched,
            standings=self.standings,
            scribe=self.ledger.scribe,
        )
        self.pool = NetworkExperts(
            asyncio.get_running_loop(),
            self.hub.directory,
            model.manifest,
            identity.public,
            self.dispatched,
            settings.dispatch,
            self._watch,
            self.auditing.rivals_watcher,
        )
        self._honest: NodeDaemon | None = None

    async def start(self) -> None:
        """Listens, and waits for an honest node that holds every expert."""
        self.ledger.scribe.start()
        await self.hub.start()
        self.auditing.start()
        self._honest = NodeDaemon(self.node_settings("honest", trusted=bool(self._settings.trusted)))
        await self._honest.start()
        await self.ready(self._honest)
        if self._settings.honest_is_busy:
            # As if it had hours of work before it.
            (honest,) = self.hub.directory.layer(0).nodes
            honest.reserve(SentFrame(link_pb2.CoordinatorMessage(), 1, BUSY_BYTES, DEADLINE_S, _nothing))

    async def stop(self) -> None:
        """Ends everything."""
        self.hub.directory.close()
        await self.auditing.close()
        if self._honest is not None:
            await self._honest.stop()
        await self.hub.stop()
        await self.ledger.close()

    @property
    def honest(self) -> NodeId:
        """The honest node."""
        if self._honest is None:
            raise StuckError("there is no honest node before `start`")
        return self._honest.node_id

    def node_settings(self, name: str, *, trusted: bool = False) -> NodeSettings:
        """Those of a node that has not come yet."""
        self._nodes += 1
        return NodeSettings(
            invite=self.hub.invite.encode(),
            state_dir=self._trusted.next() if trusted else self._folder / f"node-{self._nodes}",
            memory_bytes=MEMORY_BYTES,
            threads=1,
            name=name,
            holdings_interval_s=0.02,
            reconnect_first_s=0.05,
            reconnect_cap_s=0.2,
        )

    async def ready(self, node: NodeDaemon) -> None:
        """Waits until a node holds every expert."""
        wanted = len(self.model.manifest.experts)
        await until(
            lambda: any(
                seen.id == node.node_id and seen.experts == wanted and seen.state.value == "ready"
                for seen in self.hub.snapshot().nodes
            )
        )

    async def call(
        self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, gates: torch.Tensor
    ) -> tuple[StepTally, torch.Tensor]:
        """What became of one call, and its answer: rows `hidden` [R, H] through `experts` [R, K] with `gates` [R, K]."""
        tally = StepTally()
        flight = lambda: self.pool.submit(layer, hidden, experts, gates, tally).result()  # noqa: E731
        return tally, await asyncio.to_thread(flight)

    async def call_one(self, key: ExpertKey, hidden: torch.Tensor) -> tuple[StepTally, float]:
        """What became of one call of one expert, and how far its answer is from the honest one."""
        ids, gates = torch.full((len(hidden), 1), key.expert), torch.ones(len(hidden), 1)
        tally, answer = await self.call(key.layer, hidden, ids, gates)
        honest = self.oracle.answer(key, hidden)
        return tally, float((answer - honest).norm() / honest.norm())

    async def settled(self, due: int) -> None:
        """Waits until the auditor has nothing left to do, and so many audits have ended."""
        await until(self._all_seen)
        # Between looking at a result and asking about it the auditor's counts agree for a moment.
        await asyncio.sleep(POLL_S)
        await until(lambda: self._all_audited() and self.audits_ended() >= due)

    def audits_ended(self) -> int:
        """How many audits have ended."""
        return sum(self.audits.totals().outcomes.values())

    def evidence(self) -> set[Path]:
        """All evidence on disk."""
        return set((self._state / EVIDENCE_FOLDER).glob("*"))

    def _watch(self, verified: VerifiedResult) -> None:
        node, cover = verified.host.node, verified.cover
        wrong = cover is not None and self._is_wrong(verified, cover.rows.tolist())
        with self._counting:
            self.seen[node] += 1
            self.cheated[node] += wrong
            if self.standings.of(node).always_audited:
                self.always_audited.append(node)
            self.ledger.watch(verified)
        if self.auditing.watcher is not None:
            self.auditing.watcher(verified)

    def _is_wrong(self, verified: VerifiedResult, rows: list[int]) -> bool:
        right = self.oracle.right(verified)[rows]
        signed = torch.from_numpy(signed_output(verified)[rows])
        return bool(((signed - right).norm(dim=1) > CHEATED * right.norm(dim=1)).any())

    def _all_seen(self) -> bool:
        totals = self.audits.totals()
        return totals.results + totals.dropped == self.seen.total()

    def _all_audited(self) -> bool:
        totals = self.audits.totals()
        # More, where audits are given up before they are asked about.
        return totals.waiting == 0 and self.audits_ended() >= totals.challenges


def _nothing(frame: SentFrame, ending: Ending) -> None:
    """Nobody waits for it."""


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nothing announces. Raises StuckError."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StuckError(
            "the network did not settle", advice="try again on a machine with less to do"
        ) from None


@asynccontextmanager
async def arena(
    model: PreparedModel, folder: Path, settings: ArenaSettings | None = None
) -> AsyncIterator[Arena]:
    """A network below `folder` that has ended when the context is left."""
    network = Arena(model, folder, settings or ArenaSettings(AuditSettings(busy_share=1.0)))
    try:
        await network.start()
        yield network
    finally:
        await network.stop()
