"""One real network for many adversaries: a hub with its auditor, an honest node, and one adversary after the other beside it.

Guarantees: links are gRPC with TLS on loopback, nodes are real daemons, calls go through `NetworkExperts` as a trunk's do, one row
to one expert each; nothing of the coordinator is told that a node cheats. Each adversary comes as a newcomer under a key of its
own. A call counts from the first that the adversary is asked for; the next one is made when the auditor has nothing left to
do, so a count is that of the calls which it took, and not of how busy this machine is.

Letters: H hidden size.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from ...coordinator.audit.auditing import Auditing
from ...coordinator.audit.counters import AuditCounters
from ...coordinator.audit.evidence_keeper import EVIDENCE_FOLDER
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
from ...trust.recompute import PROFILE_TOLERANCE
from ...trust.standing import Status
from ...trust.tls import TlsIdentity
from .audited import AuditedRequests
from .evidence import verifies
from .kinds import Adversary
from .model import Oracle
from .nodes import AdversaryNode

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.001
DEADLINE_S: Final = 2.0
"""Of frames and openings; short, because adversaries that keep silent are waited for."""
SAME: Final = 1e-4
"""Relative difference below which two honest answers are the same: sums are taken in another order."""
BUSY_BYTES: Final = 1e14
"""Work that the honest node is taken to have, so that calls go to the adversary while it is there."""
AT_ONCE: Final = {Adversary.REORDER: 8}
"""How many calls are made at a time, where it is not one: who exchanges results must have two."""
UNCAUGHT: Final = "not caught"
STRUCK: Final = "struck out"
QUARANTINED: Final = "quarantined"


class StuckError(UnavailableError):
    """The network did not come to where it should within a minute."""


@dataclass(frozen=True)
class Bout:
    """How one adversary fared.

    Attributes:
        calls: That it was asked until it was caught; None when it was not.
        verdict: `QUARANTINED`, `STRUCK`, `UNCAUGHT`, or `rejected: ` and why.
        evidence: Of each evidence file against it, whether the offline check proves it.
        wrong_answers: Calls whose answer, given before the audit, was further from the honest one than honest nodes may be.
        retried_equal: Whether the answers of calls whose result was rejected, or never came, are the honest ones; None
            when there were none.
        innocents_accused: Whether the honest node was convicted or struck meanwhile.
    """

    calls: int | None
    verdict: str
    evidence: tuple[bool, ...]
    wrong_answers: int
    retried_equal: bool | None
    innocents_accused: bool


class Arena:
    """The network; see `arena`."""

    def __init__(self, model: PreparedModel, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._state = folder / "operator"
        self._oracle = Oracle(model)
        self._nodes = 0
        self._seen: Counter[NodeId] = Counter()
        self._always_audited: list[NodeId] = []
        self._audits = AuditCounters()
        self._dispatched = DispatchCounters()
        # The node has nothing else to do: how much of a busy node's time audits take is not what is measured here.
        settings, identity = AuditSettings(busy_share=1.0), Identity.generate()
        self._standings = StandingBook(None, settings.standing)
        self.auditing = Auditing(self._state, model, identity, self._standings, self._audits, settings)
        self.hub = Hub(
            HubSettings(port=0, settle_s=0.02, lost_grace_s=0.05, frame_deadline_s=DEADLINE_S),
            identity,
            TlsIdentity.generate(identity),
            secrets.token_bytes(16),
            model,
            self._dispatched,
            None,
            self._standings,
        )
        self._pool = NetworkExperts(
            asyncio.get_running_loop(),
            self.hub.directory,
            model.manifest,
            identity.public,
            self._dispatched,
            # A second answer would catch many of them before an audit does, and audits are what is measured.
            DispatchSettings(hedge_share=0.0),
            self._watch,
        )
        self._honest: NodeDaemon | None = None
        self._requests = AuditedRequests(model, self._pool, self.hub, self.auditing)

    async def start(self) -> None:
        """Listens, and waits for an honest node that holds every expert."""
        await self.hub.start()
        self.auditing.start()
        self._honest = NodeDaemon(self._node_settings("honest"))
        await self._honest.start()
        await self.ready(self._honest)
        # As if it had hours of work before it: it is planned with only where nobody else holds an expert, or has failed.
        (honest,) = self.hub.directory.layer(0).nodes
        honest.reserve(SentFrame(link_pb2.CoordinatorMessage(), 1, BUSY_BYTES, DEADLINE_S, _nothing))
        await self._requests.start()

    async def stop(self) -> None:
        """Ends everything."""
        self.hub.directory.close()
        await asyncio.to_thread(self._requests.close)
        await self.auditing.close()
        if self._honest is not None:
            await self._honest.stop()
        await self.hub.stop()

    @property
    def honest(self) -> NodeId:
        """The honest node."""
        if self._honest is None:
            raise StuckError("there is no honest node before `start`")
        return self._honest.node_id

    async def fight(self, adversary: Adversary, seed: int, cap: int) -> Bout:
        """Lets one adversary in, and asks it until it is caught, or `cap` times."""
        node = AdversaryNode(self._node_settings(adversary.name.lower()), adversary=adversary)
        await node.start()
        try:
            await self.ready(node)
            return await self._fight(node, seed, cap)
        finally:
            await node.stop()

    async def ask_audited(self, adversary: Adversary) -> bool | None:
        """Lets one adversary in, and asks for audited answers: whether they are the honest ones; None when it was never asked."""
        node = AdversaryNode(self._node_settings(adversary.name.lower()), adversary=adversary)
        await node.start()
        try:
            await self.ready(node)
            before = self._dispatched.totals()
            equal = await self._requests.equal()
            after = self._dispatched.totals()
            failed = sum(after.failed.values()) - sum(before.failed.values())
            rejected = after.results_rejected - before.results_rejected
            return equal if self._seen[node.node_id] or failed or rejected else None
        finally:
            await node.stop()

    async def ready(self, node: NodeDaemon) -> None:
        """Waits until a node holds every expert."""
        wanted = len(self._model.manifest.experts)
        await _until(
            lambda: any(
                seen.id == node.node_id and seen.experts == wanted and seen.state.value == "ready"
                for seen in self.hub.snapshot().nodes
            )
        )

    async def _fight(self, node: AdversaryNode, seed: int, cap: int) -> Bout:
        evidence, since_s = self._evidence(), self._standings.of(node.node_id).since_s
        honest = self._standings.of(self.honest)
        rejected = Counter(self._dispatched.totals().rejected)
        calls = wrong = 0
        verdict, equal = UNCAUGHT, None
        keys = sorted(self._model.manifest.experts)
        at_once = AT_ONCE.get(node.adversary, 1)
        for first in range(0, 2 * cap, at_once):
            numbers = range(first, first + at_once)
            asked = [
                (keys[number % len(keys)], self._oracle.rows(1, seed * 1_000_003 + number))
                for number in numbers
            ]
            due = self._audits_ended()
            self._always_audited.clear()
            for tally, error in await asyncio.gather(*(self._call(*one) for one in asked)):
                if tally.results_rejected or tally.retries:
                    equal = error < SAME and equal is not False
                elif node.node_id not in tally.nodes:
                    continue
                calls += 1
                wrong += error > PROFILE_TOLERANCE
            await self._settled(due + len(self._always_audited))
            verdict = self._verdict(node.node_id, since_s, rejected)
            if verdict != UNCAUGHT or calls >= cap:
                break
        caught = verdict != UNCAUGHT
        files = sorted(self._evidence() - evidence)
        now = self._standings.of(self.honest)
        return Bout(
            calls if caught else None,
            verdict,
            tuple(verifies(path, self._model.folder) for path in files),
            wrong,
            equal,
            not now.serves or len(now.strikes_s) > len(honest.strikes_s),
        )

    async def _call(self, key: ExpertKey, hidden: torch.Tensor) -> tuple[StepTally, float]:
        """What became of one call, and how far its answer is from the honest one."""
        tally, ids, gates = StepTally(), torch.tensor([[key.expert]]), torch.ones(1, 1)
        answer = await asyncio.to_thread(
            lambda: self._pool.submit(key.layer, hidden, ids, gates, tally).result()
        )
        honest = self._oracle.answer(key, hidden)
        return tally, float((answer - honest).norm() / honest.norm())

    async def _settled(self, due: int) -> None:
        """Waits until the auditor has nothing left to do, and so many audits have ended."""
        await _until(self._all_seen)
        # Between looking at a result and asking about it the auditor's counts agree for a moment.
        await asyncio.sleep(POLL_S)
        await _until(lambda: self._all_audited() and self._audits_ended() >= due)

    def _verdict(self, node: NodeId, since_s: float, rejected: Counter[str]) -> str:
        standing = self._standings.of(node)
        if standing.status is Status.QUARANTINED:
            return QUARANTINED
        new = Counter(self._dispatched.totals().rejected) - rejected
        if new:
            return f"rejected: {next(iter(new))}"
        if standing.status is Status.PROBATION and standing.since_s != since_s:
            return STRUCK
        return UNCAUGHT

    def _watch(self, verified: VerifiedResult) -> None:
        node = verified.host.node
        self._seen[node] += 1
        if self._standings.of(node).always_audited:
            self._always_audited.append(node)
        if self.auditing.watcher is not None:
            self.auditing.watcher(verified)

    def _all_seen(self) -> bool:
        totals = self._audits.totals()
        return totals.results + totals.dropped == self._seen.total()

    def _all_audited(self) -> bool:
        totals = self._audits.totals()
        # More, where audits are given up before they are asked about.
        return totals.waiting == 0 and self._audits_ended() >= totals.challenges

    def _audits_ended(self) -> int:
        return sum(self._audits.totals().outcomes.values())

    def _evidence(self) -> set[Path]:
        return set((self._state / EVIDENCE_FOLDER).glob("*"))

    def _node_settings(self, name: str) -> NodeSettings:
        self._nodes += 1
        return NodeSettings(
            invite=self.hub.invite.encode(),
            state_dir=self._folder / f"node-{self._nodes}",
            memory_bytes=64 << 20,
            threads=1,
            name=name,
            holdings_interval_s=0.02,
            reconnect_first_s=0.05,
            reconnect_cap_s=0.2,
        )


def _nothing(frame: SentFrame, ending: Ending) -> None:
    """Nobody waits for it."""


async def _until(condition: Callable[[], bool]) -> None:
    """Waits for what nothing announces."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StuckError(
            "the network did not settle", advice="try again on a machine with less to do"
        ) from None


@asynccontextmanager
async def arena(model: PreparedModel, folder: Path) -> AsyncIterator[Arena]:
    """A network below `folder` that has ended when the context is left."""
    network = Arena(model, folder)
    try:
        await network.start()
        yield network
    finally:
        await network.stop()
