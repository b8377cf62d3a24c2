"""Who can compute which expert right now.

Guarantees: `layer` may be called from any thread and gives a snapshot that never changes; it is made anew only when the
holders of that layer have changed. A subscriber is called after each change that could give an expert a new host, and
once when the directory closes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ...ids import ExpertKey
from ...models.manifest import Manifest
from ..self_host.own_host import OwnHost
from .host import Host

AnyHost = Host | OwnHost
"""A node, or the coordinator itself."""


@dataclass(frozen=True, slots=True)
class LayerHosts:
    """One layer's holders.

    Attributes:
        hosts: Those that hold any expert of the layer.
        holders: For each expert its holders, as indices into `hosts`.
        expert_bytes: Canonical bytes of each expert.
    """

    hosts: tuple[AnyHost, ...]
    holders: tuple[tuple[int, ...], ...]
    expert_bytes: tuple[int, ...]

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Those of the hosts that are nodes."""
        return tuple(host for host in self.hosts if not isinstance(host, OwnHost))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a model has hosts: all its experts, those with at least one host, those with at least two."""

    experts: int
    covered: int
    replicated: int

    @property
    def complete(self) -> bool:
        """Whether every expert has a host."""
        return self.covered == self.experts

    @property
    def fraction(self) -> float:
        """Covered experts of all."""
        return self.covered / self.experts if self.experts else 1.0


class Directory:
    """Holders of one model's experts. Changed on the event loop only; read from anywhere."""

    def __init__(self, manifest: Manifest) -> None:
        self._sizes = {
            layer: _sizes(manifest, keys[-1].expert + 1, keys) for layer, keys in manifest.layers.items()
        }
        self._held: dict[AnyHost, frozenset[ExpertKey]] = {}
        self._replicas: dict[ExpertKey, int] = dict.fromkeys(manifest.experts, 0)
        self._covered = self._replicated = 0
        self._by_layer: dict[int, dict[AnyHost, set[int]]] = {layer: {} for layer in self._sizes}
        self._layers = {layer: self._build(layer) for layer in self._sizes}
        self._subscribers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no host will ever appear again."""
        return self._closed

    @property
    def coverage(self) -> Coverage:
        """How much of the model has hosts."""
        return Coverage(len(self._replicas), self._covered, self._replicated)

    def layer(self, layer: int) -> LayerHosts:
        """The holders of one layer. Raises KeyError when the model has no experts there."""
        return self._layers[layer]

    def replicas(self, key: ExpertKey) -> int:
        """How many hosts an expert has."""
        return self._replicas[key]

    def update(self, host: AnyHost, ready: frozenset[ExpertKey]) -> None:
        """From now on the host holds exactly these; all are experts of the model."""
        before = self._held.get(host, frozenset())
        if ready:
            self._held[host] = ready
        else:
            self._held.pop(host, None)
        gained, lost = ready - before, before - ready
        self._count(gained, +1)
        self._count(lost, -1)
        for key in gained:
            self._by_layer[key.layer].setdefault(host, set()).add(key.expert)
        for key in lost:
            experts = self._by_layer[key.layer][host]
            experts.remove(key.expert)
            if not experts:
                del self._by_layer[key.layer][host]
        for layer in {key.layer for key in gained} | {key.layer for key in lost}:
            self._layers[layer] = self._build(layer)
        if gained:
            self._tell()

    def remove(self, host: AnyHost) -> None:
        """The host is gone."""
        self.update(host, frozenset())

    def close(self) -> None:
        """No host will ever appear again: whoever waits for one should stop."""
        self._closed = True
        self._tell()

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Calls the function after changes, from the event loop; it must not block. Any thread."""
        with self._lock:
            self._subscribers.add(on_change)

    def unsubscribe(self, on_change: Callable[[], None]) -> None:
        """The opposite of `subscribe`. Any thread."""
        with self._lock:
            self._subscribers.discard(on_change)

    def _tell(self) -> None:
        with self._lock:
            subscribers = list(self._subscribers)
        for on_change in subscribers:
            on_change()

    def _count(self, keys: Iterable[ExpertKey], change: int) -> None:
        for key in keys:
            before = self._replicas[key]
            self._replicas[key] = after = before + change
            self._covered += (after >= 1) - (before >= 1)
            self._replicated += (after >= 2) - (before >= 2)

    def _build(self, layer: int) -> LayerHosts:
        held = self._by_layer[layer]
        holders: list[list[int]] = [[] for _ in self._sizes[layer]]
        for index, experts in enumerate(held.values()):
            for expert in experts:
                holders[expert].append(index)
        return LayerHosts(tuple(held), tuple(map(tuple, holders)), self._sizes[layer])


def _sizes(manifest: Manifest, count: int, keys: Collection[ExpertKey]) -> tuple[int, ...]:
    sizes = [0] * count
    for key in keys:
        sizes[key.expert] = manifest.expert_bytes(key)
    return tuple(sizes)
