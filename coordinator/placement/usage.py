"""How a model's experts are used: moving averages over the rows that the router sent.

Guarantees: `note` costs a lane microseconds, never waits and never raises for what it is given; what is noted and not folded
yet, and the averages themselves, are bounded. All methods may be called from any thread.

Averages fade with rows, not with time: a quiet night forgets nothing. Letters: T rows of a call, K experts of a row, E experts of a layer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...ids import ExpertKey
from .snapshot import Traffic

HALF_LIFE_ROWS = 50_000
ENOUGH_ROWS = 2_000
"""Of every layer, before averages are worth anything."""
MOST_NOTED = 8192
MOST_ROWS_OF_A_CALL = 32
MOST_PAIR_BYTES = 64 << 20
"""Of a larger model only popularity is known."""


class Usage:
    """The averages of one model."""

    def __init__(self, experts: Mapping[ExpertKey, object], *, half_life_rows: int = HALF_LIFE_ROWS) -> None:
        """`experts` names all experts of the model."""
        counts: dict[int, int] = {}
        for key in experts:
            counts[key.layer] = max(counts.get(key.layer, 0), key.expert + 1)
        pairs_fit = sum(4 * count * count for count in counts.values()) <= MOST_PAIR_BYTES
        self._half_life_rows = half_life_rows
        self._noted: deque[tuple[int, npt.NDArray[np.int64]]] = deque(maxlen=MOST_NOTED)
        self._lock = threading.Lock()
        self._counts = counts
        self._rows = dict.fromkeys(counts, 0)
        self._popularity = {layer: np.zeros(count, np.float32) for layer, count in counts.items()}
        self._together = {
            layer: np.zeros((count, count), np.float32) for layer, count in counts.items() if pairs_fit
        }

    def note(self, layer: int, expert_ids: npt.NDArray[np.int64]) -> None:
        """A call of a layer was routed to these experts: [T, K]; of a long call some rows are taken."""
        step = -(-len(expert_ids) // MOST_ROWS_OF_A_CALL) or 1
        self._noted.append((layer, expert_ids[::step].copy()))

    def fold(self) -> None:
        """Takes what was noted into the averages."""
        with self._lock:
            calls: dict[int, list[npt.NDArray[np.int64]]] = {}
            for _ in range(len(self._noted)):
                layer, expert_ids = self._noted.popleft()
                calls.setdefault(layer, []).append(expert_ids)
            for layer, parts in calls.items():
                if layer in self._counts:
                    self._fold_layer(layer, parts)

    def traffic(self) -> Traffic | None:
        """The averages, as they are now; None while too little has been seen."""
        with self._lock:
            if min(self._rows.values(), default=0) < ENOUGH_ROWS:
                return None
            return Traffic(
                {layer: average.copy() for layer, average in self._popularity.items()},
                {layer: average.copy() for layer, average in self._together.items()},
            )

    def _fold_layer(self, layer: int, parts: list[npt.NDArray[np.int64]]) -> None:
        count = self._counts[layer]
        rows = sum(len(part) for part in parts)
        used = np.zeros((rows, count), np.float32)
        start = 0
        for part in parts:
            # A number that the layer does not have is some router's fault, and none of ours.
            np.put_along_axis(used[start : start + len(part)], np.clip(part, 0, count - 1), 1.0, axis=1)
            start += len(part)
        fade = np.float32(0.5 ** (rows / self._half_life_rows))
        self._rows[layer] += rows
        self._popularity[layer] *= fade
        self._popularity[layer] += used.sum(0)
        if layer in self._together:
            self._together[layer] *= fade
            self._together[layer] += used.T @ used
