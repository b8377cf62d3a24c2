"""What the operator's Prometheus may learn of audits, and nobody else: it is not for `/metrics`.

Guarantees: numbers are read when metrics are asked for, never kept twice; labels have few fixed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..dispatch.challenge import Unopened
from .counters import AuditOutcome, AuditTotals


class AuditCollector(Collector):
    """Turns the counts into series, each time that it is asked."""

    def __init__(self, totals: Callable[[], AuditTotals]) -> None:
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        """The series right now."""
        totals = self._totals()
        yield CounterMetricFamily(
            "folkmoot_audit_results", "Verified results that were looked at", value=totals.results
        )
        yield GaugeMetricFamily(
            "folkmoot_audit_waiting", "Results that wait for their audit", value=totals.waiting
        )
        yield CounterMetricFamily(
            "folkmoot_audit_challenges", "Challenges that were sent", value=totals.challenges
        )
        yield CounterMetricFamily(
            "folkmoot_audit_suspicions",
            "Openings that did not look like an honest node's",
            value=totals.suspected,
        )
        yield CounterMetricFamily(
            "folkmoot_audit_dropped",
            "Results that were passed over because too much was waiting",
            value=totals.dropped,
        )
        yield CounterMetricFamily(
            "folkmoot_audit_disagreements",
            "Second answers that differed from the first by more than honest rounding",
            value=totals.disagreed,
        )
        yield CounterMetricFamily(
            "folkmoot_audit_hearings",
            "Results that two unrelated nodes were asked about, for want of weights",
            value=totals.heard,
        )
        ended = CounterMetricFamily("folkmoot_audits", "Audits that ended, by how", labels=["outcome"])
        for outcome in AuditOutcome:
            ended.add_metric([outcome.value], totals.outcomes.get(outcome.value, 0))
        yield ended
        unopened = CounterMetricFamily(
            "folkmoot_audit_unopened", "Challenges without an opening that counts, by why", labels=["reason"]
        )
        for reason in Unopened:
            unopened.add_metric([reason.value], totals.unopened.get(reason.value, 0))
        yield unopened
