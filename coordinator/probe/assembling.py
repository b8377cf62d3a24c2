"""Probes, assembled for one coordinator.

Guarantees: none of a prober's parts is shared with audits but standings and the keeper of evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...ids import NodeId
from ...trust.keys import Identity
from ..audit.canonical_weights import CanonicalExperts
from ..audit.evidence_keeper import EvidenceKeeper
from ..audit.judge import Judge
from ..audit.standing_book import StandingBook
from ..dispatch.counters import DispatchCounters
from ..dispatch.verified_result import Watcher
from ..hub.experts_service import ExpertSource
from .checking import Checker
from .memory import ProbeMemory
from .prober import Prober
from .settings import ProbeSettings
from .trial import Trials


def make_prober(
    state: Path,
    source: ExpertSource,
    identity: Identity,
    counters: DispatchCounters,
    standings: StandingBook,
    settings: ProbeSettings,
    *,
    evidence: EvidenceKeeper | None,
    watcher: Watcher | None = None,
    on_convicted: Callable[[NodeId], None] = lambda node: None,
) -> Prober | None:
    """Whoever tries a coordinator's nodes; None when nobody shall.

    Args:
        state: The coordinator's state folder.
        source: The model's experts.
        identity: The coordinator's.
        counters: What the probes' frames are counted in, like all others.
        standings: What is told of verdicts.
        settings: How nodes are tried.
        evidence: Takes what proves that an answer is wrong, which is a verdict then; None where nothing is audited.
        watcher: Is handed every answer that is the node's own: it is work, and gets its receipt.
        on_convicted: Is told of nodes against which there is a verdict, on the prober's thread.
    """
    if not settings.enabled:
        return None
    experts = CanonicalExperts(source)
    judge = Judge(evidence, experts, identity) if evidence is not None else None
    checker = Checker(identity.public, experts, counters, watcher, judge, standings, on_convicted)
    trials = Trials(experts, settings.rows)
    return Prober(source.manifest, trials, checker, counters, settings, ProbeMemory(state, source.manifest))
