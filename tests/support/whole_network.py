"""A whole coordinator with real nodes in this process: trunk, engine, API, links, downloads, signatures.

Guarantees: everything listens on loopback and free ports, and has ended when the context is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from folkmoot.coordinator.app import Coordinator
from folkmoot.coordinator.engine.settings import EngineSettings
from folkmoot.coordinator.settings import CoordinatorSettings
from folkmoot.models.prepared import PreparedModel
from folkmoot.node.daemon import NodeDaemon
from folkmoot.tests.support.running_node import running_node

PATIENCE_S = 30.0


class WholeNetwork:
    """A coordinator and the nodes that joined it."""

    def __init__(self, coordinator: Coordinator, folder: Path, stack: AsyncExitStack) -> None:
        self.coordinator = coordinator
        self.nodes: list[NodeDaemon] = []
        self._folder = folder
        self._stack = stack

    async def join(self, **changes: Any) -> NodeDaemon:
        """Starts one more node; `changes` are node settings by name, or `kind`."""
        folder = self._folder / f"node-{len(self.nodes)}"
        node = await self._stack.enter_async_context(running_node(self.coordinator.invite, folder, **changes))
        self.nodes.append(node)
        return node

    async def settled(self, nodes: int) -> None:
        """Waits until so many nodes hold all that they shall, and every expert has a host."""
        await self.until(lambda: self._settled(nodes))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until it is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)

    def state(self, node: NodeDaemon) -> str:
        """What the coordinator says of a node."""
        return next(
            seen.state.value for seen in self.coordinator.hub.snapshot().nodes if seen.id == node.node_id
        )

    def _settled(self, count: int) -> bool:
        snapshot = self.coordinator.hub.snapshot()
        ready = [node for node in snapshot.nodes if node.state.value == "ready" and node.experts]
        return len(ready) == count and snapshot.coverage.complete


def coordinator_settings(prepared: PreparedModel, folder: Path, **changes: Any) -> CoordinatorSettings:
    """Free ports, little memory, short waits; newcomers get their share of experts, so that each node is asked soon, and nobody is
    probed: tests of misconduct count on what happens in traffic."""
    quick: dict[str, Any] = {
        "model": prepared.folder,
        "state_dir": folder / "operator",
        "port": 0,
        "api_port": 0,
        "lost_grace_s": 0.2,
        "expert_wait_s": 1.0,
        "audit": {"probation_experts": 1000},
        "probe": {"enabled": False},
        "engine": EngineSettings(kv_memory_bytes=8 << 20, not_covered_wait_s=5.0),
    }
    return CoordinatorSettings(**(quick | changes))


@asynccontextmanager
async def whole_network(
    prepared: PreparedModel, folder: Path, *, nodes: int = 3, **changes: Any
) -> AsyncIterator[WholeNetwork]:
    """A serving coordinator with so many nodes, settled."""
    coordinator = Coordinator(coordinator_settings(prepared, folder, **changes))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(coordinator.stop)
        await coordinator.start()
        network = WholeNetwork(coordinator, folder, stack)
        for _ in range(nodes):
            await network.join()
        if nodes:
            await network.settled(nodes)
        yield network
