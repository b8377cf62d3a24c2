"""Rows and the experts that they go through, as one layer's routing has them.

Guarantees: pairs are in canonical order (by expert, then row) and never change; what is derived from them is derived once, so
that a routing which comes again, as with each token of a sliced model, costs no more than finding it.

Letters: T tokens, K experts a token, P pairs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ...protos.codec import encode_tensor
from ...protos.folkmoot.v1 import link_pb2
from ...trust.statements import routing_digest

REMEMBERED, MOST_PAIRS_REMEMBERED = 64, 256

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows and the experts that they go through, in canonical order.

    Attributes:
        experts: [P] index of the expert in its layer.
        rows: [P] row of the step.
        gates: [P] what the expert's output is multiplied by.
    """

    experts: Int32s
    rows: Int32s
    gates: Float32s

    @classmethod
    def of(cls, expert_ids: Int64s, gates: Float32s) -> Pairs:
        """Orders what a router chose: both [T, K]; a row has no expert twice."""
        experts = expert_ids.astype(np.int32).ravel()
        order = np.argsort(experts, kind="stable")
        return cls(experts[order], (order // expert_ids.shape[1]).astype(np.int32), gates.ravel()[order])

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Pairs:
        """All pairs of several, in canonical order again."""
        if len(parts) == 1:
            return parts[0]
        experts = np.concatenate([part.experts for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        order = np.lexsort((rows, experts))
        gates = np.concatenate([part.gates for part in parts])
        return cls(experts[order], rows[order], gates[order])

    def __len__(self) -> int:
        return len(self.experts)

    def take(self, which: npt.NDArray[np.bool_]) -> Pairs:
        """Some of the pairs, chosen by a mask."""
        return Pairs(self.experts[which], self.rows[which], self.gates[which])

    @cached_property
    def loads(self) -> tuple[list[int], list[int]]:
        """The experts that have rows, ascending, and how many each."""
        counts = np.bincount(self.experts)
        active = np.flatnonzero(counts)
        return active.tolist(), counts[active].tolist()

    @cached_property
    def compact(self) -> tuple[Int64s, Pairs]:
        """The distinct rows, ascending, and the same pairs with rows as indices into them."""
        seen = np.zeros(int(self.rows.max()) + 1, np.bool_)
        seen[self.rows] = True
        rows = np.flatnonzero(seen)
        if len(rows) == len(seen):
            return rows, self
        return rows, Pairs(self.experts, (np.cumsum(seen, dtype=np.int32) - 1)[self.rows], self.gates)

    @cached_property
    def by_expert(self) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """For each expert, ascending: its number, its rows (int64) and their gates (float32)."""
        experts, counts = self.loads
        cuts = np.cumsum(counts)[:-1].tolist()
        rows = torch.from_numpy(self.rows.astype(np.int64)).tensor_split(cuts)
        return list(zip(experts, rows, torch.from_numpy(self.gates).tensor_split(cuts), strict=True))

    @cached_property
    def message(self) -> link_pb2.Frame:
        """A frame with these pairs and nothing else."""
        tensors = [encode_tensor(torch.from_numpy(part)) for part in (self.experts, self.rows, self.gates)]
        return link_pb2.Frame(experts=tensors[0], rows=tensors[1], gates=tensors[2])

    @cached_property
    def digest(self) -> bytes:
        """What a node's signature binds the pairs by."""
        return routing_digest(self.experts.data, self.rows.data, self.gates.data)


class PairsMemory:
    """Finds again the last few small routings. For one thread at a time or many: the worst is that one is made twice."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, bytes, bytes], Pairs] = OrderedDict()

    def pairs(self, expert_ids: Int64s, gates: Float32s) -> Pairs:
        """`Pairs.of`, remembered."""
        if expert_ids.size > MOST_PAIRS_REMEMBERED:
            return Pairs.of(expert_ids, gates)
        key = (expert_ids.shape[1], expert_ids.tobytes(), gates.tobytes())
        pairs = self._known.get(key)
        if pairs is None:
            pairs = self._known[key] = Pairs.of(expert_ids, gates)
            while len(self._known) > REMEMBERED:
                try:
                    self._known.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return pairs
