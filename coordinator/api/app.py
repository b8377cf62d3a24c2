"""The FastAPI application of one coordinator.

Guarantees: it serves one model under one name; every error has OpenAI's shape; making the application starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from ... import __version__
from . import errors
from .answering import Answering, TextEngine
from .body_cap import BodyCap
from .completions import CompletionRoutes
from .log import LogRoutes
from .network import NetworkRoutes
from .prompts import Prompts
from .settings import ApiSettings


def create_app(
    engine: TextEngine,
    tokenizer: Any,
    model_name: str,
    network: Callable[[], dict[str, Any]],
    registry: CollectorRegistry,
    settings: ApiSettings | None = None,
    read_log: Callable[[str], bytes | None] | None = None,
    leaderboard: Callable[[], dict[str, Any]] | None = None,
) -> FastAPI:
    """Makes the application.

    Args:
        engine: Where prompts go.
        tokenizer: The model's transformers tokenizer.
        model_name: What `/v1/models` calls the model, and requests must ask for.
        network: Gives the document of `/v1/network`; called on the server's event loop, so it must not block.
        registry: What `/metrics` shows.
        settings: How the API behaves.
        read_log: Gives what the public log serves at a path, from any thread; None, itself or given, serves nothing.
        leaderboard: Gives the document of `/v1/leaderboard`, from any thread; None serves none.
    """
    settings = settings or ApiSettings()
    app = FastAPI(title="Folkmoot", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(BodyCap, max_bytes=settings.max_body_bytes)
    errors.install(app)
    completions = CompletionRoutes(Answering(engine, settings), Prompts(tokenizer), model_name, settings)
    app.include_router(completions.router())
    app.include_router(NetworkRoutes(model_name, network, registry, leaderboard).router())
    app.include_router(LogRoutes(read_log or (lambda path: None)).router())
    return app
