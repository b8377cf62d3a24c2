"""The routes that tell about the network: models, health, metrics, nodes and coverage, and who has done how much.

Guarantees: they read and change nothing; they answer while every expert is unreachable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from starlette.responses import Response

from .completions import unknown_model

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class NetworkRoutes:
    """What one coordinator says of its model and its network."""

    def __init__(
        self,
        model_name: str,
        network: Callable[[], dict[str, Any]],
        registry: CollectorRegistry,
        leaderboard: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._model_name = model_name
        self._network = network
        self._registry = registry
        self._leaderboard = leaderboard
        self._created = int(time.time())

    def router(self) -> APIRouter:
        """The routes, to be included in an application."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.models, methods=["GET"])
        router.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        router.add_api_route("/v1/network", self.network, methods=["GET"])
        if self._leaderboard is not None:
            router.add_api_route("/v1/leaderboard", self.leaderboard, methods=["GET"])
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/metrics", self.metrics, methods=["GET"])
        return router

    async def models(self) -> dict[str, Any]:
        """The list of models: one."""
        return {"object": "list", "data": [self._model()]}

    async def model(self, name: str) -> dict[str, Any]:
        """One model by name."""
        if name != self._model_name:
            raise unknown_model(name, self._model_name)
        return self._model()

    async def network(self) -> dict[str, Any]:
        """Nodes, coverage and counters."""
        return self._network()

    def leaderboard(self) -> dict[str, Any]:
        """Who has done how much, by public names; in a thread, for it adds up what every node is owed."""
        return self._leaderboard() if self._leaderboard is not None else {}

    async def health(self) -> dict[str, Any]:
        """That the process answers, and whether every expert has a host."""
        coverage = self._network()["coverage"]
        return {"status": "ok", "covered": coverage["covered"] == coverage["experts"]}

    async def metrics(self) -> Response:
        """Prometheus' text."""
        return Response(generate_latest(self._registry), media_type=METRICS_CONTENT_TYPE)

    def _model(self) -> dict[str, Any]:
        return {"id": self._model_name, "object": "model", "created": self._created, "owned_by": "folkmoot"}
