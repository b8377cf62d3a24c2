"""Which rows go through which experts, as a frame or a challenge says it.

Guarantees: a `Routing` exists only for pairs that are in canonical order and unique, whose rows exist and whose gates are
finite; pairs without gates come out only in that order too. Frames that repeat a routing byte for byte, as each token of a sliced model does, are checked once.

Letters: R rows, P pairs of an expert and a row.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass

import numpy
import torch

from ..errors import WireError
from ..protos.codec import decode_tensor, raw_bytes
from ..protos.folkmoot.v1 import link_pb2, tensor_pb2
from ..protos.limits import MAX_PAIRS_PER_FRAME
from ..trust.statements import routing_digest

REMEMBERED, MOST_BYTES_REMEMBERED = 64, 4096
"""How many routings are remembered, and how large one may be on the wire, fields that nobody knows included."""

Int32s = numpy.ndarray[tuple[int], numpy.dtype[numpy.int32]]
Rows = tuple[int, torch.Tensor]
Part = tuple[int, torch.Tensor, torch.Tensor]


class RoutingError(WireError):
    """A frame's pairs break the contract."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Pairs that have been checked.

    Attributes:
        parts: For each expert, ascending: its number, its rows (int64) and their gates (float32).
        pairs: How many there are.
        most_rows: How many rows the busiest expert has.
        digest: `routing_digest` of the pairs.
    """

    parts: tuple[Part, ...]
    pairs: int
    most_rows: int
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


def read_pairs(
    experts: tensor_pb2.Tensor, rows: tensor_pb2.Tensor, count: int, most: int
) -> tuple[Rows, ...]:
    """Pairs that stand without gates, as a challenge has them: for each expert, ascending, its number and its rows.

    Args:
        experts, rows: From a peer.
        count: How many rows there are.
        most: How many pairs there may be.

    Raises:
        TensorError: a tensor has a wrong dtype, shape or length.
        RoutingError: the pairs break the contract.
    """
    numbers = _numbers(experts, "experts", most)
    index = _numbers(rows, "rows", most)
    _check(count, numbers, index)
    firsts, parts, _ = _split(numbers, index)
    return tuple(zip(firsts, parts, strict=True))


def _checked(frame: link_pb2.Frame, count: int) -> Routing:
    experts = _numbers(frame.experts, "experts", MAX_PAIRS_PER_FRAME)  # [P]
    rows = _numbers(frame.rows, "rows", MAX_PAIRS_PER_FRAME)  # [P]
    gates = _decoded(frame.gates, "gates", torch.float32, MAX_PAIRS_PER_FRAME)  # [P]
    if experts.size != gates.numel():
        raise RoutingError(
            f"{experts.size} experts, {rows.size} rows and {gates.numel()} gates do not make pairs"
        )
    _check(count, experts, rows)
    if not numpy.isfinite(gates.numpy()).all():
        raise RoutingError("a gate is not finite")
    numbers, parts, cuts = _split(experts, rows)
    return Routing(
        parts=tuple(zip(numbers, parts, gates.tensor_split(cuts), strict=True)),
        pairs=experts.size,
        most_rows=max(end - start for start, end in itertools.pairwise((0, *cuts, experts.size))),
        digest=routing_digest(experts.data, rows.data, raw_bytes(gates)),
    )


def _split(experts: Int32s, rows: Int32s) -> tuple[list[int], tuple[torch.Tensor, ...], list[int]]:
    """The experts' numbers, each one's rows, and where the next one's pairs begin."""
    starts = numpy.flatnonzero(experts[1:] != experts[:-1]) + 1
    numbers = experts[numpy.concatenate(([0], starts))].tolist()
    cuts = starts.tolist()
    return numbers, torch.from_numpy(rows.astype(numpy.int64)).tensor_split(cuts), cuts


def _check(count: int, experts: Int32s, rows: Int32s) -> None:
    if not count or not experts.size:
        raise RoutingError(f"{count} rows and {experts.size} pairs: it is empty")
    if experts.size != rows.size:
        raise RoutingError(f"{experts.size} experts and {rows.size} rows do not make pairs")
    if rows.view(numpy.uint32).max() >= count:  # as unsigned, a negative row is a very large one
        raise RoutingError(f"a pair names row {rows.max()} or {rows.min()} of {count}")
    order = experts.astype(numpy.int64) * count + rows
    if not (order[1:] > order[:-1]).all():
        raise RoutingError("the pairs are not strictly increasing by expert, then row")


def _numbers(tensor: tensor_pb2.Tensor, what: str, most: int) -> Int32s:
    numbers: Int32s = _decoded(tensor, what, torch.int32, most).numpy()
    return numbers


def _decoded(tensor: tensor_pb2.Tensor, what: str, dtype: torch.dtype, most: int) -> torch.Tensor:
    return decode_tensor(tensor, dtype=dtype, shape=(None,), max_bytes=4 * most, what=what)
