"""Changes of the books that are not written yet, in memory.

Guarantees: of each thing the newest form waits, however often it changed; what was taken to be written stays until it is durable, and
what has changed since then is not taken for written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Set
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from ...errors import FolkmootError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Staged(Generic[K, V]):
    """Changes of one kind that are not written yet: the newest by key. Written in the order in which keys first came."""

    def __init__(
        self,
        lock: threading.RLock,
        write: Callable[[Connection, dict[K, V]], None],
        written: Callable[[dict[K, V]], None] | None = None,
        most: int | None = None,
    ) -> None:
        self._lock = lock
        self._write = write
        self._written = written
        self._most = most
        self._changes: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def get(self, key: K) -> V | None:
        """What is to be written for a key."""
        with self._lock:
            return self._changes.get(key)

    def put(self, key: K, value: V) -> None:
        """Changes something. Beyond `most` the oldest is forgotten."""
        with self._lock:
            self._changes[key] = value
            if self._most is not None and len(self._changes) > self._most:
                del self._changes[next(iter(self._changes))]

    def take(self) -> dict[K, V]:
        """All that is to be written; it stays until `settle`."""
        return dict(self._changes)

    def write(self, connection: Connection, taken: dict[K, V]) -> None:
        """Writes what was taken."""
        if taken:
            self._write(connection, taken)

    def settle(self, taken: dict[K, V]) -> None:
        """What was taken is durable now."""
        self.forget(taken)
        if taken and self._written is not None:
            self._written(taken)

    def forget(self, taken: dict[K, V]) -> None:
        """What was taken is not to be written any more, but for what has changed since."""
        for key, value in taken.items():
            if self._changes.get(key) is value:
                del self._changes[key]


class Group:
    """Changes that belong together: under `lock`, several can be made that no transaction parts.

    Attributes:
        name: What the log calls them.
        lock: Held while several are made.
        parted: Whether only changes with the same key belong together.
        refused: What the database refused when it was last tried, and why, by key; by None where nothing may be parted. For the
            writer's thread.
    """

    def __init__(self, name: str, *, parted: bool = False) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.parted = parted
        self.refused: dict[Hashable, tuple[Taken, FolkmootError]] = {}
        self._kinds: list[Staged[Any, Any]] = []

    def staged(
        self,
        write: Callable[[Connection, dict[K, V]], None],
        written: Callable[[dict[K, V]], None] | None = None,
        most: int | None = None,
    ) -> Staged[K, V]:
        """One more kind of changes, written after those before it."""
        kind = Staged(self.lock, write, written, most)
        self._kinds.append(kind)
        return kind

    @property
    def waiting(self) -> int:
        """Changes that are not written yet."""
        return sum(len(kind) for kind in self._kinds)

    def take(self) -> Taken:
        """All that is to be written and was not refused, as it is at one moment."""
        if None in self.refused:
            return Taken(self, [])
        with self.lock:
            taken = Taken(self, [(kind, kind.take()) for kind in self._kinds])
        return taken.only(taken.keys() - self.refused.keys()) if self.refused else taken

    def refusal(self, key: Hashable | None) -> FolkmootError | None:
        """Why the changes with a key, or any for None, are refused."""
        for refused in self.refused if key is None or not self.parted else (key,):
            if refused in self.refused:
                return self.refused[refused][1]
        return None


@dataclass(frozen=True)
class Taken:
    """What one transaction writes of a group."""

    group: Group
    changes: list[tuple[Staged[Any, Any], dict[Any, Any]]]

    def keys(self) -> set[Hashable]:
        """What has changed."""
        return {key for _, taken in self.changes for key in taken}

    def only(self, keys: Set[Hashable]) -> Taken:
        """The part of it with these keys."""
        part = [
            (kind, {key: value for key, value in taken.items() if key in keys})
            for kind, taken in self.changes
        ]
        return Taken(self.group, part)

    def halves(self) -> list[Taken]:
        """Two parts of it; nothing when it cannot be parted."""
        keys = list(self.keys()) if self.group.parted else []
        if len(keys) < 2:
            return []
        half = len(keys) // 2
        return [self.only(set(keys[:half])), self.only(set(keys[half:]))]

    def write(self, connection: Connection) -> None:
        """Writes it."""
        for kind, taken in self.changes:
            kind.write(connection, taken)

    def forget(self) -> None:
        """It is not to be written any more."""
        with self.group.lock:
            for kind, taken in self.changes:
                kind.forget(taken)

    def settle(self) -> None:
        """It is durable."""
        with self.group.lock:
            for kind, taken in self.changes:
                kind.settle(taken)
