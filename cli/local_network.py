"""A coordinator and its nodes as processes on this machine.

Guarantees: they listen on loopback only; all start at once, so that imports and loading overlap; the nodes share the machine's
memory; leaving the context ends every one of them, whatever happened; what they keep lies below one folder, so that a second
start downloads nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from ..amounts import format_bytes
from ..client import FolkmootClient
from ..disk import DiskFullError
from ..errors import UnavailableError
from ..node.machine import LEAST_MEMORY_BYTES, available_memory_bytes
from ..state_lock import StateInUseError, StateLock
from .child import PROGRAM, Child, ChildEndedError

QUICK_RETURN = {"FOLKMOOT_COORDINATOR_RESTART_GRACE_S": "5"}
"""All nodes are started with the coordinator: one of the last time that is not there at once is not started this time."""
COORDINATOR_FOLDER = "coordinator"
"""The coordinator's state folder, in the network's."""
POLL_S = 0.1
CHECK_INTERVAL_S = 0.5
COVERAGE_TIMEOUT_S = 600.0
MEMORY_SHARE = 0.7
"""The part of the memory available now that all nodes together lend: left to itself, each of them would lend half."""
LEAST_FREE_BYTES = 16 << 20
"""With less, processes could not even say in their logs why they end."""
ELSEWHERE = "FOLKMOOT_HOME=DIR"
"""How people give it another state folder."""
REPLICAS_TIMEOUT_S = 3.0
"""How long second copies are waited for: nodes may have no memory for them."""

Notice = Callable[[dict[str, Any]], None]


class NotCoveredInTimeError(UnavailableError):
    """The nodes did not come to host every expert in time."""


class NetworkRunsError(StateInUseError):
    """The state folder belongs to a network that runs."""


class LocalNetwork:
    """A network of `nodes` nodes that serves the prepared model in `model`.

    Attributes:
        api_url: Where its API listens, once `open` has returned.
    """

    def __init__(
        self,
        model: Path,
        nodes: int,
        state: Path,
        *,
        api_port: int = 0,
        threads: int = 0,
        environment: Mapping[str, str] | None = None,
        program: str = PROGRAM,
    ) -> None:
        """Starts nothing yet.

        Args:
            model: Folder of the prepared model.
            nodes: How many nodes, of one thread each.
            state: Folder of what all of them keep.
            api_port: Where the API listens, unless another program comes to have it; 0 takes a free one.
            threads: The coordinator's; 0 for as many as there are cores.
            environment: What all processes have in theirs besides.
            program: The module that they run.
        """
        self._model = model
        self._count = nodes
        self._state = state
        self._api_port = api_port
        self._threads = threads or len(_cores())
        self._environment = {**QUICK_RETURN, **(environment or {})}
        self._program = program
        self._nodes: list[Child] = []
        self._coordinator: Child | None = None
        self._state_lock: StateLock | None = None
        self.api_url = ""

    def open(self) -> None:
        """Starts all processes; returns when the coordinator takes nodes.

        Raises:
            StateError, DiskFullError: when the state folder cannot be used.
            NetworkRunsError: when another process has a network of the same state.
            ChildEndedError: when one of the processes ends.
        """
        self._lock()
        logs = self._state / "logs"
        self._coordinator = self._serving(self._api_port)
        memory = max(LEAST_MEMORY_BYTES, int(available_memory_bytes() * MEMORY_SHARE / max(self._count, 1)))
        for number in range(1, self._count + 1):
            name = f"node-{number}"
            join = ["node", "join", "-", "--threads", "1", "--memory", str(memory), "--name", name]
            join += ["--state", str(self._state / name)]
            self._nodes.append(Child(name, join, logs / f"{name}.log", self._environment, self._program))
        ready = json.loads(self._first_line())
        self.api_url = ready["api"]
        for node in self._nodes:
            node.tell(ready["invite"])

    def _serving(self, api_port: int) -> Child:
        """A coordinator that starts."""
        serve = ["coordinator", "serve", "--json", "--model", str(self._model)]
        serve += ["--state", str(self._state / COORDINATOR_FOLDER)]
        serve += ["--host", "127.0.0.1", "--port", "0", "--api-port", str(api_port)]
        serve += ["--threads", str(self._threads)]
        log = self._state / "logs" / "coordinator.log"
        return Child("the coordinator", serve, log, self._environment, self._program)

    def _first_line(self) -> str:
        """What the coordinator says when it takes nodes."""
        assert self._coordinator is not None
        try:
            return self._coordinator.read_line()
        except ChildEndedError as error:
            # Until a moment ago the port was free: another network that started meanwhile may have got it.
            if not self._api_port or error.exit_code != UnavailableError.exit_code or is_free(self._api_port):
                raise
        self._coordinator.end()
        self._coordinator = self._serving(0)
        return self._coordinator.read_line()

    def wait_until_covered(self, client: FolkmootClient, notice: Notice) -> dict[str, Any]:
        """Waits until every node is ready and every expert has a host, two where memory allows; tells `notice` of each look.

        Raises:
            ChildEndedError: when a process ends.
            NotCoveredInTimeError: when it takes too long.
        """
        began = covered_at = time.monotonic()
        while time.monotonic() < began + COVERAGE_TIMEOUT_S:
            self.check()
            network = self._ask(client)
            notice(network)
            if not self._covered(network):
                covered_at = time.monotonic()
            elif self._replicated(network) or time.monotonic() > covered_at + REPLICAS_TIMEOUT_S:
                return network
            time.sleep(POLL_S)
        raise NotCoveredInTimeError(
            f"not every expert had a host after {COVERAGE_TIMEOUT_S:.0f} s",
            advice=f"see the logs in {self._state / 'logs'}",
        )

    def keep_apart(self) -> None:
        """Gives the coordinator a processor core of its own, and the nodes the others.

        Where one node at a time works on a token, this costs nothing and keeps the coordinator's caches warm: a step of a
        small model is many short pieces of work, and each piece that starts in a cold cache takes thrice as long.
        """
        cores = _cores()
        if self._coordinator is None or len(cores) < 2 or not hasattr(os, "sched_getaffinity"):
            return
        own = {min(cores)}
        self._coordinator.stay_on(own)
        for node in self._nodes:
            node.stay_on(cores - own)

    def check(self) -> None:
        """Raises ChildEndedError when a process has ended."""
        for child in self._children():
            child.check()

    def serve(self, notice: Callable[[str], None]) -> NoReturn:
        """Stays up, whichever nodes end, as long as the coordinator does; tells `notice` of nodes that end.

        Raises:
            ChildEndedError: when the coordinator has ended.
        """
        missed: set[Child] = set()
        while True:
            for child in self._children():
                try:
                    child.check()
                except ChildEndedError as error:
                    if child is self._coordinator:
                        raise
                    if child not in missed:
                        notice(str(error))
                    missed.add(child)
            time.sleep(CHECK_INTERVAL_S)

    def close(self) -> None:
        """Ends all processes."""
        children = self._children()
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end()
        if self._state_lock is not None:
            self._state_lock.close()
            self._state_lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            self._state_lock = StateLock(self._state, "network", elsewhere=ELSEWHERE)
        except StateInUseError as error:
            raise NetworkRunsError(
                f"a network that keeps its state in {self._state} runs already",
                advice="ask it with `folkmoot ask`, end it first, or set FOLKMOOT_HOME to another folder",
            ) from error
        _, _, free = shutil.disk_usage(self._state)
        if free < LEAST_FREE_BYTES:
            raise DiskFullError(
                f"the disk of {self._state} has {format_bytes(free)} free",
                advice=f"free some, or name a folder on another disk: {ELSEWHERE}",
            )

    def _children(self) -> list[Child]:
        return [*self._nodes, *([self._coordinator] if self._coordinator is not None else [])]

    def _ask(self, client: FolkmootClient) -> dict[str, Any]:
        try:
            return client.network()
        except UnavailableError:
            # If the coordinator has ended, its own words say more than those of the broken connection.
            self.check()
            raise

    def _covered(self, network: dict[str, Any]) -> bool:
        """Whether every node has what it was told to hold, and every expert a host."""
        coverage, nodes = network["coverage"], network["nodes"]
        settled = all(node["state"] == "ready" for node in nodes)
        return len(nodes) == self._count and settled and coverage["covered"] == coverage["experts"] > 0

    def _replicated(self, network: dict[str, Any]) -> bool:
        coverage = network["coverage"]
        return self._count == 1 or coverage["replicated"] == coverage["experts"]


def is_free(port: int) -> bool:
    """Whether no program listens on this port of the machine's own address now."""
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _cores() -> set[int]:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
