"""A coordinator and its nodes as processes on this machine.

Guarantees: they listen on loopback only; all start at once, so that imports and loading overlap; leaving the context ends
every one of them, whatever happened; what they keep lies below one folder, so that a second start downloads nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..client import FolkmootClient
from ..errors import UnavailableError
from .child import Child

POLL_S = 0.1
COVERAGE_TIMEOUT_S = 600.0

Notice = Callable[[dict[str, Any]], None]


class NotCoveredInTimeError(UnavailableError):
    """The nodes did not come to host every expert in time."""


class LocalNetwork:
    """A network of `nodes` nodes that serves the prepared model in `model`.

    Attributes:
        api_url: Where its API listens, once `open` has returned.
    """

    def __init__(self, model: Path, nodes: int, state: Path, *, api_port: int = 0) -> None:
        self._model = model
        self._count = nodes
        self._state = state
        self._api_port = api_port
        self._nodes: list[Child] = []
        self._coordinator: Child | None = None
        self.api_url = ""

    def open(self) -> None:
        """Starts all processes; returns when the coordinator takes nodes.

        Raises:
            ChildEndedError: when one of them ends.
        """
        logs = self._state / "logs"
        serve = [
            "coordinator",
            "serve",
            "--json",
            "--model",
            str(self._model),
            "--state",
            str(self._state / "coordinator"),
        ]
        serve += ["--host", "127.0.0.1", "--port", "0", "--api-port", str(self._api_port)]
        self._coordinator = Child("the coordinator", serve, logs / "coordinator.log")
        for number in range(1, self._count + 1):
            name = f"node-{number}"
            join = ["node", "join", "-", "--threads", "1", "--name", name, "--state", str(self._state / name)]
            self._nodes.append(Child(name, join, logs / f"{name}.log"))
        ready = json.loads(self._coordinator.read_line())
        self.api_url = ready["api"]
        for node in self._nodes:
            node.tell(ready["invite"])

    def wait_until_covered(self, client: FolkmootClient, notice: Notice) -> dict[str, Any]:
        """Waits until every node is ready and every expert has a host; tells `notice` of each look.

        Raises:
            ChildEndedError: when a process ends.
            NotCoveredInTimeError: when it takes too long.
        """
        deadline = time.monotonic() + COVERAGE_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            network = client.network()
            notice(network)
            if self._complete(network):
                return network
            time.sleep(POLL_S)
        raise NotCoveredInTimeError(
            f"not every expert had a host after {COVERAGE_TIMEOUT_S:.0f} s",
            advice=f"see the logs in {self._state / 'logs'}",
        )

    def check(self) -> None:
        """Raises ChildEndedError when a process has ended."""
        for child in self._children():
            child.check()

    def close(self) -> None:
        """Ends all processes."""
        children = self._children()
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _children(self) -> list[Child]:
        return [*self._nodes, *([self._coordinator] if self._coordinator is not None else [])]

    def _complete(self, network: dict[str, Any]) -> bool:
        coverage, nodes = network["coverage"], network["nodes"]
        settled = all(0 < node["experts_assigned"] <= node["experts"] for node in nodes)
        return len(nodes) == self._count and settled and coverage["covered"] == coverage["experts"] > 0
