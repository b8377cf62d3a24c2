"""The network at one moment, as `/v1/network` tells it.

Guarantees: a snapshot is plain data and does not change; its `document` is what the HTTP API answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ids import NodeId
from ...node_states import NodeState
from ...trust.standing import Standing, Status
from ..dispatch.counters import Totals
from ..dispatch.directory import Coverage
from ..self_host.hosting import OwnSnapshot
from .roster import Member


@dataclass(frozen=True)
class NodeSnapshot:
    """One node at one moment.

    `since_unix_s` is when it entered its state; `round_trip_ms` and `bytes_per_second`, of weights that it worked through, are None
    while it is not attached or not measured; `standing` is how far it is trusted, since when and why.
    """

    id: NodeId
    name: str
    state: NodeState
    experts: int
    experts_assigned: int
    memory_bytes: int
    held_bytes: int
    fetched_bytes: int
    round_trip_ms: float | None
    rows_in_flight: int
    results_verified: int
    results_rejected: int
    reason: str
    since_unix_s: int
    bytes_per_second: int | None
    standing: Status
    standing_reason: str
    standing_since_unix_s: int

    @classmethod
    def of(cls, member: Member, standing: Standing) -> NodeSnapshot:
        """What is known of a member right now."""
        link = member.link
        measured = link is not None and link.pace.round_trip_s > 0
        return cls(
            id=member.node,
            name=member.name,
            state=member.state,
            experts=len(member.ready),
            experts_assigned=len(member.assigned),
            memory_bytes=member.memory_bytes,
            held_bytes=member.held_bytes,
            fetched_bytes=member.fetched_bytes,
            round_trip_ms=round(link.pace.round_trip_s * 1000, 3) if link is not None and measured else None,
            rows_in_flight=link.rows_in_flight if link is not None else 0,
            results_verified=member.record.results_verified,
            results_rejected=member.record.results_rejected,
            reason=member.reason,
            since_unix_s=int(member.life.since_unix_s),
            bytes_per_second=int(1 / link.pace.seconds_per_byte)
            if link is not None and link.pace.seconds_per_byte
            else None,
            standing=standing.status,
            standing_reason=standing.reason,
            standing_since_unix_s=int(standing.since_s),
        )


@dataclass(frozen=True)
class NetworkSnapshot:
    """The network at one moment; `own` is what the coordinator hosts itself, None when that is nothing."""

    model: str
    manifest: bytes
    coverage: Coverage
    nodes: tuple[NodeSnapshot, ...]
    totals: Totals
    own: OwnSnapshot | None = None

    def document(self) -> dict[str, Any]:
        """What `/v1/network` answers."""
        coverage, totals = self.coverage, self.totals
        return {
            "object": "folkmoot.network",
            "model": self.model,
            "manifest": self.manifest.hex(),
            "coverage": {
                "experts": coverage.experts,
                "covered": coverage.covered,
                "replicated": coverage.replicated,
                "fraction": coverage.fraction,
            },
            "nodes": [
                {**vars(node), "state": node.state.value, "standing": node.standing.value}
                for node in self.nodes
            ],
            "self_host": self.own.document() if self.own is not None else None,
            "counters": {
                "results_signed": totals.results_signed,
                "results_verified": totals.results_verified,
                "results_own": totals.results_own,
                "results_rejected": totals.results_rejected,
                "retries": totals.retries,
                "hedges": totals.hedges,
                "hedges_won": totals.hedges_won,
                "hedges_compared": totals.hedges_compared,
                "frames": totals.frames,
                "rows": totals.rows,
                "rows_own": totals.rows_own,
            },
        }
