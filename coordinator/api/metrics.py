"""What Prometheus learns of requests, under the names that vLLM made common.

Guarantees: one set of series a coordinator, in the registry that it was given; labels have few fixed values, and none
grows with nodes, users or requests. The engine tells it what happens: it is the engine's observer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.engine import EngineStats
from ..engine.observer import Outcome

FIRST_TOKEN_BUCKETS_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKEN_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10)
REQUEST_BUCKETS_S = (0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)


class RequestMetrics:
    """The series of one coordinator's requests; an `EngineObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers the series."""
        self._running = Gauge(
            "folkmoot:num_requests_running", "Requests that are computed", registry=registry
        )
        self._waiting = Gauge("folkmoot:num_requests_waiting", "Requests that wait", registry=registry)
        self._first_token = Histogram(
            "folkmoot:time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._between_tokens = Histogram(
            "folkmoot:inter_token_latency_seconds",
            "Between two tokens of one answer",
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._request = Histogram(
            "folkmoot:e2e_request_latency_seconds",
            "From a request's arrival to the end of its answer",
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._prompt_tokens = Counter("folkmoot:prompt_tokens", "Tokens of prompts", registry=registry)
        self._generation_tokens = Counter(
            "folkmoot:generation_tokens", "Tokens of answers", registry=registry
        )
        self._draft_tokens = Counter(
            "folkmoot:spec_decode_num_draft_tokens", "Tokens that were guessed and tried", registry=registry
        )
        self._accepted_tokens = Counter(
            "folkmoot:spec_decode_num_accepted_tokens",
            "Guessed tokens that were kept: tokens of answers that took no step of their own",
            registry=registry,
        )
        self._succeeded = Counter(
            "folkmoot:request_success",
            "Answers that came to their end, by why they ended",
            ["finished_reason"],
            registry=registry,
        )
        self._failed = Counter(
            "folkmoot:request_failure", "Answers that failed or were left", ["reason"], registry=registry
        )

    def watch(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Names the functions that tell how many requests run and wait; asked whenever metrics are read."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)

    def first_token(self, seconds: float) -> None:
        """A request's first token came this long after it was submitted."""
        self._first_token.observe(seconds)
        self._generation_tokens.inc()

    def next_token(self, seconds: float) -> None:
        """A further token came this long after the one before."""
        self._between_tokens.observe(seconds)
        self._generation_tokens.inc()

    def ended(self, outcome: Outcome, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """An answer came to its end, this long after it was submitted."""
        self._prompt_tokens.inc(prompt_tokens)
        if outcome in ("stop", "length"):
            self._request.observe(seconds)
            self._succeeded.labels(finished_reason=outcome).inc()
        else:
            self._failed.labels(reason=outcome).inc()

    def stepped(self, tokens: int, seconds: float) -> None:
        """A step of the engine; requests do not care."""

    def drafted(self, proposed: int, accepted: int) -> None:
        """A step tried so many guessed tokens; so many of them were kept."""
        self._draft_tokens.inc(proposed)
        self._accepted_tokens.inc(accepted)


class ConsequencesCollector(Collector):
    """What verdicts have meant for answers, asked of the engine each time."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """The series right now."""
        stats = self._stats()
        yield CounterMetricFamily(
            "folkmoot_answers_rewound",
            "Answers of which some was computed anew because a node was convicted, or had not signed what was used",
            value=stats.answers_rewound,
        )
        yield CounterMetricFamily(
            "folkmoot_answers_doubted",
            "Answers that had ended when a node was convicted whose results were behind them",
            value=stats.answers_doubted,
        )
