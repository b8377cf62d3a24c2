"""A model's units as arrays: what placement counts in.

Guarantees: units of one group are neighbours; the numbering depends on the model alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt

from ...ids import ExpertKey
from .snapshot import Traffic

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MOST_SURE = 16.0
"""An expert is taken to be at least 1/16 as popular as its layer's mean: what nobody asks for now may be asked for tomorrow."""


class Units:
    """What stays together on a node: experts, or whole layers of a sliced model.

    Units of one group work at the same time: experts of a layer. Letters: U units, G groups, E units of a group.

    Attributes:
        keys: [U] the experts of each unit.
        sizes: [U] bytes.
        experts: [U] how many experts.
        group: [U] the group.
        starts: [G + 1] where each group begins.
        popularity: [U] what each works, 1 on average over a group.
        known: Whether anything is known of popularity.
    """

    def __init__(
        self, sizes: Mapping[ExpertKey, int], traffic: Traffic | None, *, whole_layers: bool
    ) -> None:
        """`whole_layers` makes each layer one unit, and all of them one group."""
        ordered = sorted(sizes)
        layers: dict[int, list[ExpertKey]] = {}
        for key in ordered:
            layers.setdefault(key.layer, []).append(key)
        self.keys: list[tuple[ExpertKey, ...]]
        if whole_layers:
            self.keys = [tuple(keys) for keys in layers.values()]
            lengths = [len(self.keys)]
        else:
            self.keys = [(key,) for key in ordered]
            lengths = [len(keys) for keys in layers.values()]
        self._index = None if whole_layers else {key: index for index, key in enumerate(ordered)}
        self.sizes: Ints = np.array([sum(sizes[key] for key in keys) for keys in self.keys], np.int64)
        self.experts: Ints = np.array([len(keys) for keys in self.keys], np.int64)
        self.group: Ints = np.repeat(np.arange(len(lengths)), lengths)
        self.starts: Ints = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.popularity: Floats = np.ones(len(self.keys))
        self._pairs: dict[int, Matrix] = {}
        self._alike: dict[int, Matrix] = {}
        self.known = False
        if traffic is not None and not whole_layers:
            for group, (layer, keys) in enumerate(layers.items()):
                self._read(traffic, group, layer, np.array([key.expert for key in keys]))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.starts) - 1

    def members(self, group: int) -> slice:
        """Where a group's units are."""
        return slice(int(self.starts[group]), int(self.starts[group + 1]))

    def together(self, group: int) -> Matrix | None:
        """[E, E] how often two units of a group work for the same row, from 0 to 1, and 0 with itself; None if not known."""
        pairs = self._pairs.get(group)
        if pairs is not None and group not in self._alike:
            self._alike[group] = _alike(pairs)
        return self._alike.get(group)

    def among(self, keys: Set[ExpertKey]) -> Ints:
        """The units that are wholly among some experts, ascending."""
        if self._index is not None:
            found = [index for key in keys if (index := self._index.get(key)) is not None]
            return np.sort(np.array(found, np.int64))
        whole = [index for index, unit in enumerate(self.keys) if keys and keys >= set(unit)]
        return np.array(whole, np.int64)

    def experts_of(self, units: Ints) -> frozenset[ExpertKey]:
        """The experts of some units."""
        return frozenset(key for unit in units.tolist() for key in self.keys[unit])

    def _read(self, traffic: Traffic, group: int, layer: int, numbers: Ints) -> None:
        rows = traffic.popularity.get(layer)
        if rows is None or len(rows) <= numbers.max() or not rows[numbers].sum() > 0:
            return
        share = rows[numbers].astype(np.float64)
        share = np.maximum(share / share.mean(), 1 / MOST_SURE)
        self.popularity[self.members(group)] = share / share.mean()
        self.known = True
        pairs = traffic.together.get(layer)
        if pairs is not None and len(pairs) > numbers.max():
            self._pairs[group] = pairs[np.ix_(numbers, numbers)]


def _alike(pairs: Matrix) -> Matrix:
    """How often two units work for the same row, over how often each works at all."""
    often = np.sqrt(np.maximum(np.diag(pairs), 1e-6)).astype(np.float32)
    result: Matrix = pairs / often[:, None] / often[None, :]
    np.fill_diagonal(result, 0)
    return result
