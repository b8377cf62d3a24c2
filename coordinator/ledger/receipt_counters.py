"""What receipts add up to, and what Prometheus learns of them.

Guarantees: counts only grow; each is written by one thread at a time, and read as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_HELP = {
    "issued": "Receipts that were given to nodes",
    "results": "Accepted results that a receipt covers",
    "omitted": "Frames that a receipt reaches and of which no result was accepted",
    "late": "Accepted results that came too late for their receipt",
    "dropped": "Accepted results that no receipt covers because too many waited",
    "acknowledged": "Acknowledgements of nodes that hold the same books",
    "refused": "Acknowledgements that were not the node's, or of no receipt",
    "batches": "Batches of receipts in the public log",
    "unlogged": "Entries of receipts or credits that the public log did not take",
}


@dataclass
class ReceiptCounters:
    """Counts of one coordinator."""

    issued: int = 0
    results: int = 0
    omitted: int = 0
    late: int = 0
    dropped: int = 0
    acknowledged: int = 0
    refused: int = 0
    batches: int = 0
    unlogged: int = 0


class ReceiptCollector(Collector):
    """Turns the counts into series, each time that it is asked."""

    def __init__(self, counters: ReceiptCounters) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """The series right now."""
        for field in fields(self._counters):
            yield CounterMetricFamily(
                f"folkmoot_receipts_{field.name}",
                _HELP[field.name],
                value=getattr(self._counters, field.name),
            )
