"""What Prometheus learns of the network: nodes, coverage, frames, results.

Guarantees: numbers are read from the network when metrics are asked for, never kept twice; labels have few fixed values,
and none grows with the number of nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..node_states import NodeState
from .hub.snapshot import NetworkSnapshot


class NetworkCollector(Collector):
    """Turns a snapshot into series, each time that it is asked."""

    def __init__(self, snapshot: Callable[[], NetworkSnapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """The series right now."""
        snapshot = self._snapshot()
        totals = snapshot.totals
        yield _count("folkmoot_results_signed", "Results that came with a signature", totals.results_signed)
        yield _count(
            "folkmoot_results_verified", "Results whose signature was found right", totals.results_verified
        )
        yield _counts("folkmoot_results_rejected", "Results that were thrown away", totals.rejected)
        yield _counts("folkmoot_frames_failed", "Frames that had no answer", totals.failed)
        yield _count(
            "folkmoot_retries", "Frames that were sent because another replica failed", totals.retries
        )
        yield _count(
            "folkmoot_hedges", "Second frames, sent because a first took long for its host", totals.hedges
        )
        yield _count(
            "folkmoot_hedges_won", "First frames whose second ones were answered before", totals.hedges_won
        )
        yield _count(
            "folkmoot_hedges_compared",
            "First frames whose second ones were answered too, and compared",
            totals.hedges_compared,
        )
        yield _count("folkmoot_frames", "Frames that were sent", totals.frames)
        yield _count("folkmoot_rows", "Rows that were sent", totals.rows)
        yield _count("folkmoot_own_results", "Parts that the coordinator computed itself", totals.results_own)
        yield _count("folkmoot_own_rows", "Rows that the coordinator computed itself", totals.rows_own)
        if (own := snapshot.own) is not None:
            yield GaugeMetricFamily(
                "folkmoot_own_experts", "Experts that the coordinator hosts itself", value=own.experts
            )
            yield GaugeMetricFamily(
                "folkmoot_own_held_bytes", "Bytes of experts that it hosts itself", value=own.held_bytes
            )
        states = Counter(node.state for node in snapshot.nodes)
        nodes = GaugeMetricFamily("folkmoot_nodes", "Nodes that are known, by state", labels=["state"])
        for state in NodeState:
            nodes.add_metric([state.value], states[state])
        yield nodes
        yield GaugeMetricFamily(
            "folkmoot_coverage_ratio", "Experts that have a host, of all", value=snapshot.coverage.fraction
        )


def _count(name: str, help_text: str, value: int) -> Metric:
    return CounterMetricFamily(name, help_text, value=value)


def _counts(name: str, help_text: str, by_reason: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=["reason"])
    for reason, value in sorted(by_reason.items()):
        family.add_metric([reason], value)
    return family
