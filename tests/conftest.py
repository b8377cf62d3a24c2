"""Every test runs with one torch thread, a fixed seed, and a Folkmoot home of its own; those that ask for it, with a PostgreSQL server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# numpy's threads, like torch's: its library reads this when it is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# GPU kernels run through Triton's interpreter, which must be known before Triton is first imported.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from folkmoot.tests.support.postgres_server import PostgresServer

torch.set_num_threads(1)
# The same examples on each run, and no clock: a busy machine must not turn a property false.
hypothesis.settings.register_profile("folkmoot", derandomize=True, deadline=None)
hypothesis.settings.load_profile("folkmoot")


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where homes lie. `mktemp` numbers folders by looking at all there are: for thousands of homes that takes long."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def _isolated(_homes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = Path(tempfile.mkdtemp(dir=_homes))
    monkeypatch.setenv("FOLKMOOT_HOME", str(home))
    torch.manual_seed(0)
    return home


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests that ask for one; each takes a database of its own."""
    from folkmoot.tests.support.postgres_server import PostgresServer

    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
