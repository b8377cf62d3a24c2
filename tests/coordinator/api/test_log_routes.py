"""The public log's routes: what is served, how caches are told, and that all else is 404 in the API's own shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from folkmoot.coordinator.api import errors
from folkmoot.coordinator.api.log import LogRoutes
from folkmoot.coordinator.ledger.log_store import LogStore
from folkmoot.tests.support.live_server import live_server
from folkmoot.trust.keys import Identity


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "log", Identity(b"l" * 32))
    store.append([b"entry %d" % number for number in range(256)])
    store.append([b"entry 256"])
    yield store
    store.close()


@pytest.fixture
def site(log: LogStore) -> Iterator[httpx.Client]:
    app = FastAPI()
    errors.install(app)
    app.include_router(LogRoutes(log.read).router())
    with live_server(app) as url, httpx.Client(base_url=f"{url}/log/", trust_env=False) as client:
        yield client


def test_full_tiles_may_be_kept_for_ever_and_checkpoints_never(site: httpx.Client, log: LogStore) -> None:
    for path, cache, kind in (
        ("checkpoint", "no-store", "text/plain; charset=utf-8"),
        ("tile/0/000", "immutable", "application/octet-stream"),
        ("tile/entries/000", "immutable", "application/octet-stream"),
        ("tile/1/000.p/1", "max-age=3600", "application/octet-stream"),
        ("tile/0/000.p/9", "max-age=3600", "application/octet-stream"),
    ):
        reply = site.get(path)
        assert (reply.status_code, reply.content) == (200, log.read(path))
        assert cache in reply.headers["cache-control"]
        assert reply.headers["content-type"] == kind


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/001",
        "tile/0/001.p/2",
        "tile/0/1",
        "tile/64/000",
        "tile/0/..%2f..%2flock",
        "tile/",
        "tile/entries",
    ],
)
def test_all_else_is_not_there(path: str, site: httpx.Client) -> None:
    reply = site.get(path)
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("not_found_error", "not_in_log")


def test_nothing_can_be_written(site: httpx.Client) -> None:
    assert site.post("checkpoint").status_code == 405
