"""Nodes for tests: settings that are quick and small, and a node that surely stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.settings import NodeSettings

PATIENCE_S = 60.0


def node_settings(invite: str, state_dir: Path, **changes: Any) -> NodeSettings:
    """One thread, 64 MiB, short pauses; `changes` are settings by name."""
    quick: dict[str, Any] = {
        "memory_bytes": 64 << 20,
        "threads": 1,
        "name": "test node",
        "connect_timeout_s": 5.0,
        "fetch_pause_s": 0.01,
        "fetch_stall_s": 5.0,
        "reconnect_first_s": 0.02,
        "reconnect_cap_s": 0.1,
        "holdings_interval_s": 0.02,
    }
    return NodeSettings(invite=invite, state_dir=state_dir, **(quick | changes))


@asynccontextmanager
async def running_node(
    invite: str, state_dir: Path, *, kind: type[NodeDaemon] = NodeDaemon, **changes: Any
) -> AsyncIterator[NodeDaemon]:
    """A started node, stopped at the end."""
    daemon = kind(node_settings(invite, state_dir, **changes))
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition is true; for what nothing announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.005)
