"""What Prometheus is told of the books.

Guarantees: a constant number of series.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .writer import BooksWriter


class BooksCollector(Collector):
    """How much waits to be written."""

    def __init__(self, writer: BooksWriter) -> None:
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        yield GaugeMetricFamily(
            "folkmoot_books_waiting", "Changes that are not in the books yet.", value=self._writer.waiting
        )
        yield CounterMetricFamily(
            "folkmoot_books_failures",
            "Writes of the books that failed and are tried again.",
            value=self._writer.failures,
        )
