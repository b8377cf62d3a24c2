"""A node's process for tests, that surely stops, and its control socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from folkmoot.node.control import ask
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.process import NodeProcess
from folkmoot.tests.support.running_node import node_settings


@asynccontextmanager
async def running(
    invite: str,
    state: Path,
    called: str | None = None,
    clock: Any = None,
    kind: type[NodeDaemon] = NodeDaemon,
    **changes: Any,
) -> AsyncIterator[NodeProcess]:
    """A started process, stopped at the end."""
    settings = node_settings(invite, state, **changes)
    process = NodeProcess(settings, name=called, kind=kind, clock=clock or datetime.now)
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


async def asked(state: Path, verb: str, **arguments: Any) -> Any:
    """What the process on a state folder answers."""
    return await asyncio.to_thread(ask, state, verb, **arguments)
