"""The routes about the network: health, nodes, metrics; and what the engine's observer counts."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from folkmoot.coordinator.api import ApiSettings, RequestMetrics
from folkmoot.errors import UsageError
from folkmoot.tests.support.api_bench import MODEL, api_bench
from folkmoot.tests.support.scripted_engine import ScriptedEngine


def test_network_and_health() -> None:
    with api_bench(ScriptedEngine()) as bench:
        document = httpx.get(f"{bench.url}/v1/network", trust_env=False).json()
        assert document == bench.network
        assert document["model"] == MODEL
        assert httpx.get(f"{bench.url}/health", trust_env=False).json() == {"status": "ok", "covered": True}
        bench.network["coverage"]["covered"] -= 1
        health = httpx.get(f"{bench.url}/health", trust_env=False)
        assert (health.status_code, health.json()["covered"]) == (200, False)
        metrics = httpx.get(f"{bench.url}/metrics", trust_env=False)
        assert metrics.status_code == 200
        assert metrics.headers["content-type"].startswith("text/plain; version=")


def test_the_observer_counts_under_vllms_stems() -> None:
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry)
    metrics.watch(running=lambda: 3, waiting=lambda: 4)
    metrics.first_token(0.2)
    metrics.next_token(0.05)
    metrics.next_token(0.05)
    metrics.drafted(4, 1)
    metrics.drafted(2, 2)
    metrics.ended("stop", 0.3, prompt_tokens=7, completion_tokens=3)
    metrics.ended("cancelled", 0.3, prompt_tokens=5, completion_tokens=0)
    text = generate_latest(registry).decode()
    for line in (
        "folkmoot:num_requests_running 3.0",
        "folkmoot:num_requests_waiting 4.0",
        "folkmoot:time_to_first_token_seconds_count 1.0",
        "folkmoot:inter_token_latency_seconds_count 2.0",
        "folkmoot:e2e_request_latency_seconds_count 1.0",
        "folkmoot:prompt_tokens_total 12.0",
        "folkmoot:generation_tokens_total 3.0",
        "folkmoot:spec_decode_num_draft_tokens_total 6.0",
        "folkmoot:spec_decode_num_accepted_tokens_total 3.0",
        'folkmoot:request_success_total{finished_reason="stop"} 1.0',
        'folkmoot:request_failure_total{reason="cancelled"} 1.0',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_body_bytes": 10},
        {"keep_alive_s": 0},
        {"first_token_wait_s": -1},
        {"default_temperature": 3},
        {"default_top_p": 0},
        {"default_top_k": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ApiSettings(**wrong)  # type: ignore[arg-type]
