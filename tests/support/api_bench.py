"""The API as its tests see it: a scripted engine, a small tokenizer, and a live server around the real application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from folkmoot.coordinator.api import ApiSettings, create_app

from .live_server import live_server
from .scripted_engine import NODES, ScriptedEngine
from .tiny_models import tiny_tokenizer

MODEL = "tiny/moe"


def network_document() -> dict[str, Any]:
    """A network of two nodes, as `/v1/network` tells it."""
    nodes = [
        {
            "id": node,
            "name": f"node-{index}",
            "state": "ready",
            "experts": 4,
            "experts_assigned": 4,
            "memory_bytes": 1 << 30,
            "held_bytes": 1 << 20,
            "fetched_bytes": 1 << 20,
            "round_trip_ms": 0.4,
            "rows_in_flight": 0,
            "results_verified": 10 + index,
            "results_rejected": index,
            "reason": "",
        }
        for index, node in enumerate(NODES)
    ]
    return {
        "object": "folkmoot.network",
        "model": MODEL,
        "manifest": "00" * 32,
        "coverage": {"experts": 4, "covered": 4, "replicated": 4, "fraction": 1.0},
        "nodes": nodes,
        "counters": {
            "results_signed": 22,
            "results_verified": 21,
            "results_rejected": 1,
            "retries": 1,
            "frames": 22,
            "rows": 30,
        },
    }


@dataclass
class ApiBench:
    """A live API.

    Attributes:
        engine: What it generates with.
        url: Where it listens.
        network: What `/v1/network` answers; tests may change it.
    """

    engine: ScriptedEngine
    url: str
    network: dict[str, Any]


@contextmanager
def api_bench(
    engine: ScriptedEngine, *, settings: ApiSettings | None = None, tokenizer: Any = None
) -> Iterator[ApiBench]:
    """Serves the real application over a scripted engine."""
    network = network_document()
    app = create_app(
        engine,
        tokenizer or tiny_tokenizer(),
        MODEL,
        lambda: network,
        CollectorRegistry(),
        settings or ApiSettings(),
    )
    with live_server(app) as url:
        yield ApiBench(engine, url, network)
