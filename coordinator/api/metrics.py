"""What Prometheus learns of requests, under the names that vLLM made common.

Guarantees: one set of series a coordinator, in the registry that it was given; labels have few fixed values, and none
grows with nodes, users or requests.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FIRST_TOKEN_BUCKETS_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKEN_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST_BUCKETS_S = (0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


class RequestMetrics:
    """The series of one coordinator's requests."""

    def __init__(
        self, registry: CollectorRegistry, running: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        """Registers the series; the two functions are asked whenever metrics are read."""
        running_gauge = Gauge(
            "folkmoot:num_requests_running", "Requests that are being computed", registry=registry
        )
        waiting_gauge = Gauge(
            "folkmoot:num_requests_waiting", "Requests that wait for a place", registry=registry
        )
        running_gauge.set_function(running)
        waiting_gauge.set_function(waiting)
        self.first_token_s = Histogram(
            "folkmoot:time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.between_tokens_s = Histogram(
            "folkmoot:inter_token_latency_seconds",
            "Between two tokens of one answer",
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.request_s = Histogram(
            "folkmoot:e2e_request_latency_seconds",
            "From a request's arrival to the end of its answer",
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self.prompt_tokens = Counter("folkmoot:prompt_tokens", "Tokens of prompts", registry=registry)
        self.generation_tokens = Counter("folkmoot:generation_tokens", "Tokens of answers", registry=registry)
        self.succeeded = Counter(
            "folkmoot:request_success",
            "Answers that came to their end, by why they ended",
            ["finished_reason"],
            registry=registry,
        )
        self.failed = Counter(
            "folkmoot:request_failure", "Answers that failed or were left", ["reason"], registry=registry
        )


class RequestClock:
    """Measures one request; told of each token's arrival and of the end."""

    def __init__(self, metrics: RequestMetrics, prompt_tokens: int) -> None:
        self._metrics = metrics
        self._began = self._last = monotonic()
        self._seen = False
        metrics.prompt_tokens.inc(prompt_tokens)

    def tokens(self, count: int) -> None:
        """`count` tokens have arrived together."""
        if count <= 0:
            return
        now = monotonic()
        if self._seen:
            for _ in range(count):
                self._metrics.between_tokens_s.observe((now - self._last) / count)
        else:
            self._metrics.first_token_s.observe(now - self._began)
        self._seen, self._last = True, now
        self._metrics.generation_tokens.inc(count)

    def finished(self, reason: str) -> None:
        """The answer came to its end."""
        self._metrics.request_s.observe(monotonic() - self._began)
        self._metrics.succeeded.labels(finished_reason=reason).inc()

    def failed(self, reason: str) -> None:
        """The answer did not: `error`, or `client_gone`."""
        self._metrics.failed.labels(reason=reason).inc()
