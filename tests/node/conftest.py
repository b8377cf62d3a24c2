"""What the node's tests share: tiny experts and a coordinator that serves them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator


@pytest.fixture(scope="session")
def experts() -> BareExperts:
    return BareExperts.make()


@pytest.fixture
async def coordinator(experts: BareExperts, tmp_path: Path) -> AsyncIterator[ScriptedCoordinator]:
    server = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[ScriptedCoordinator]:
    server = ScriptedCoordinator(BareExperts.make(seed=1), tmp_path / "other")
    await server.start()
    yield server
    await server.stop()
