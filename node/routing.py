"""Which rows of a frame go through which experts, as the frame says it.

Guarantees: a `Routing` exists only for pairs that are in canonical order and unique, whose rows exist and whose gates are
finite. Frames that repeat a routing byte for byte, as each token of a sliced model does, are checked once.

Letters: R rows, P pairs of an expert and a row.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy
import torch

from ..errors import WireError
from ..protos.codec import decode_tensor, raw_bytes
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import MAX_PAIRS_PER_FRAME
from ..trust.statements import routing_digest

REMEMBERED, MOST_BYTES_REMEMBERED = 64, 4096
"""How many routings are remembered, and how large one may be on the wire, fields that nobody knows included."""

Int32s = numpy.ndarray[tuple[int], numpy.dtype[numpy.int32]]
Float32s = numpy.ndarray[tuple[int], numpy.dtype[numpy.float32]]
Part = tuple[int, torch.Tensor, torch.Tensor]


class RoutingError(WireError):
    """A frame's pairs break the contract."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Pairs that have been checked.

    Attributes:
        parts: For each expert, ascending: its number, its rows (int64) and their gates (float32).
        digest: `routing_digest` of the pairs.
    """

    parts: tuple[Part, ...]
    digest: bytes


class RoutingReader:
    """Reads routings, and remembers the last few small ones."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, bytes, bytes, bytes], Routing] = OrderedDict()

    def read(self, frame: link_pb2.Frame, count: int) -> Routing:
        """The routing of a frame that has `count` rows.

        Raises:
            TensorError: a tensor of the pairs has a wrong dtype, shape or length.
            RoutingError: the pairs break the contract.
        """
        size = frame.experts.ByteSize() + frame.rows.ByteSize() + frame.gates.ByteSize()
        if size > MOST_BYTES_REMEMBERED:
            return _checked(frame, count)
        key = (
            count,
            frame.experts.SerializeToString(),
            frame.rows.SerializeToString(),
            frame.gates.SerializeToString(),
        )
        routing = self._known.get(key)
        if routing is None:
            routing = self._known[key] = _checked(frame, count)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return routing


def _checked(frame: link_pb2.Frame, count: int) -> Routing:
    experts: Int32s = _pairs(frame, "experts", torch.int32).numpy()  # [P]
    rows: Int32s = _pairs(frame, "rows", torch.int32).numpy()  # [P]
    gates = _pairs(frame, "gates", torch.float32)  # [P]
    _check(count, experts, rows, gates.numpy())
    starts = numpy.flatnonzero(experts[1:] != experts[:-1]) + 1  # where the next expert's pairs begin
    numbers = experts[numpy.concatenate(([0], starts))].tolist()
    index = torch.from_numpy(rows.astype(numpy.int64))
    cuts = starts.tolist()
    return Routing(
        parts=tuple(zip(numbers, index.tensor_split(cuts), gates.tensor_split(cuts), strict=True)),
        digest=routing_digest(experts.data, rows.data, raw_bytes(gates)),
    )


def _check(count: int, experts: Int32s, rows: Int32s, gates: Float32s) -> None:
    if not count or not experts.size:
        raise RoutingError(f"a frame of {count} rows and {experts.size} pairs is empty")
    if not experts.size == rows.size == gates.size:
        raise RoutingError(
            f"{experts.size} experts, {rows.size} rows and {gates.size} gates do not make pairs"
        )
    if rows.view(numpy.uint32).max() >= count:  # as unsigned, a negative row is a very large one
        raise RoutingError(f"a pair names row {rows.max()} or {rows.min()} of {count}")
    order = experts.astype(numpy.int64) * count + rows
    if not (order[1:] > order[:-1]).all():
        raise RoutingError("the pairs are not strictly increasing by expert, then row")
    if not numpy.isfinite(gates).all():
        raise RoutingError("a gate is not finite")


def _pairs(frame: link_pb2.Frame, field: str, dtype: torch.dtype) -> torch.Tensor:
    return decode_tensor(
        getattr(frame, field), dtype=dtype, shape=(None,), max_bytes=4 * MAX_PAIRS_PER_FRAME, what=field
    )
