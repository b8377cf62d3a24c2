"""Routings that come again are found again, wrong ones never are, and what is remembered is bounded."""

from __future__ import annotations

import pytest
import torch

from folkmoot.node.routing import MOST_BYTES_REMEMBERED, REMEMBERED, RoutingError, RoutingReader
from folkmoot.protos.codec import encode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2


def frame(experts: list[int], rows: list[int], gates: list[float]) -> link_pb2.Frame:
    return link_pb2.Frame(
        experts=encode_tensor(torch.tensor(experts, dtype=torch.int32)),
        rows=encode_tensor(torch.tensor(rows, dtype=torch.int32)),
        gates=encode_tensor(torch.tensor(gates)),
    )


def test_a_routing_that_comes_again_is_checked_once() -> None:
    reader = RoutingReader()
    first = reader.read(frame([1, 1, 3], [0, 1, 0], [0.5, 0.25, 1.0]), 2)
    assert reader.read(frame([1, 1, 3], [0, 1, 0], [0.5, 0.25, 1.0]), 2) is first
    assert [number for number, _, _ in first.parts] == [1, 3]


@pytest.mark.parametrize(
    "other",
    [
        frame([1, 1, 2], [0, 1, 0], [0.5, 0.25, 1.0]),
        frame([1, 1, 3], [0, 1, 1], [0.5, 0.25, 1.0]),
        frame([1, 1, 3], [0, 1, 0], [0.5, 0.25, 0.75]),
    ],
)
def test_routings_that_differ_anywhere_are_not_confused(other: link_pb2.Frame) -> None:
    reader = RoutingReader()
    first = reader.read(frame([1, 1, 3], [0, 1, 0], [0.5, 0.25, 1.0]), 2)
    assert reader.read(other, 2).digest != first.digest


def test_pairs_that_fit_two_rows_are_refused_for_one_and_stay_refused() -> None:
    reader = RoutingReader()
    reader.read(frame([1, 1], [0, 1], [0.5, 0.25]), 2)
    for _ in range(2):
        with pytest.raises(RoutingError, match="row 1"):
            reader.read(frame([1, 1], [0, 1], [0.5, 0.25]), 1)


def test_few_and_small_routings_are_remembered() -> None:
    reader = RoutingReader()
    for number in range(3 * REMEMBERED):
        reader.read(frame([number], [0], [1.0]), 1)
    # A field that this version does not know (number 15, wire type 2) makes the message large and changes nothing else.
    padded = frame([1], [0], [1.0])
    padded.gates.MergeFromString(b"\x7a\x80\x40" + bytes(MOST_BYTES_REMEMBERED * 2))
    assert padded.gates.ByteSize() > MOST_BYTES_REMEMBERED
    assert reader.read(padded, 1) is not reader.read(padded, 1)
    assert len(reader._known) == REMEMBERED
