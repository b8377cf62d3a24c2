"""An observer that knows by itself which processes live and what they have in memory, and holds the coordinator's word against it.

Guarantees: what a node holds is read from the system (`/proc/PID/maps`), not from what anybody says; a node is counted on for an expert
only after it was seen ready with it, and from then on for as long as its process lives, is not told to go, and has the expert mapped,
whatever the coordinator says of it. Whenever every expert has such a host, coverage must be whole. It looks all the time, in a
thread of its own.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from folkmoot.client import FolkmootClient
from folkmoot.errors import FolkmootError
from folkmoot.ids import ExpertKey
from folkmoot.models.manifest import Manifest

PAUSE_S = 0.05
_STORED = re.compile(r"/experts/[0-9a-f]{2}/([0-9a-f]{64})")

Held = frozenset[ExpertKey]
NOTHING: Held = frozenset()


class Witness:
    """Watches one network.

    Attributes:
        looks: How often it looked while every expert surely had a host.
        unsure: How often it looked while that was not sure.
        faults: What it found wrong.
        states: States of nodes that it has seen.
    """

    def __init__(self, api_url: str, manifest: Manifest) -> None:
        self.looks = self.unsure = 0
        self.faults: list[str] = []
        self.states: set[str] = set()
        self._api_url = api_url
        self._keys = {entry.sha256: key for key, entry in manifest.experts.items()}
        self._everything = frozenset(self._keys.values())
        self._lock = threading.Lock()
        self._processes: dict[str, int] = {}
        self._sure: dict[str, Held] = {}
        self._before: dict[str, Held] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def began(self, name: str, pid: int) -> None:
        """A node's process was started."""
        with self._lock:
            self._processes[name] = pid

    def may_end(self, name: str) -> bool:
        """Whether every expert has a sure host besides this node; if so, it is not counted on any more from now on."""
        with self._lock:
            others = [
                held & self._before.get(other, NOTHING) for other, held in self._sure.items() if other != name
            ]
            if self._everything.difference(*others):
                return False
            self._forget(name)
            return True

    def goes(self, name: str) -> None:
        """A node is not counted on any more from now on, though it may still serve."""
        with self._lock:
            self._forget(name)

    def _forget(self, name: str) -> None:
        for known in (self._processes, self._sure, self._before):
            known.pop(name, None)

    def _watch(self) -> None:
        with FolkmootClient(self._api_url) as client:
            while not self._ending.is_set():
                self._look(client)
                time.sleep(PAUSE_S)

    def _look(self, client: FolkmootClient) -> None:
        with self._lock:
            processes = dict(self._processes)
        mapped = {name: self._mapped(pid) for name, pid in processes.items()}
        try:
            network = client.network()
        except (FolkmootError, httpx.HTTPError) as error:
            self.faults.append(f"the coordinator does not answer: {error}")
            return
        nodes = {node["name"]: node for node in network["nodes"]}
        self.states |= {node["state"] for node in nodes.values()}
        with self._lock:
            self._before = dict(self._sure)
            for name, pid in processes.items():
                if self._processes.get(name) == pid:
                    self._sure[name] = self._counted_on(name, mapped[name], nodes.get(name, {}))
            whole = not self._everything.difference(*self._sure.values())
            counted = {name: len(held) for name, held in self._sure.items()}
        coverage = network["coverage"]
        if not whole:
            self.unsure += 1
            return
        self.looks += 1
        if coverage["covered"] != len(self._everything):
            states = {name: (node["state"], node["experts"]) for name, node in nodes.items()}
            self.faults.append(f"coverage {coverage} while nodes hold {counted}, and are {states}")

    def _counted_on(self, name: str, mapped: Held, node: Mapping[str, Any]) -> Held:
        known = self._sure.get(name, NOTHING)
        if node.get("state") in (None, "lost", "joining"):
            return known & mapped
        if node["experts_assigned"] < len(mapped):
            return NOTHING  # some of it is to be dropped, and nobody outside knows which
        if node["state"] == "ready" and node["experts"] == len(mapped):
            return mapped
        return known & mapped

    def _mapped(self, pid: int) -> Held:
        try:
            text = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            return NOTHING
        found = (self._keys.get(digest) for digest in _STORED.findall(text))
        return frozenset(key for key in found if key is not None)
