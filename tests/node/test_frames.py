"""Every way in which a frame can be wrong is refused by name, and the node goes on."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from folkmoot.kernels.expert import Expert
from folkmoot.node.frames import FrameReader
from folkmoot.node.rows import Reason, Refused
from folkmoot.node.shelf import Shelf
from folkmoot.protos.codec import encode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.protos.folkmoot.v1.link_pb2 import Refusal
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink

GOOD = [(0, 0, 0.5), (0, 1, 0.25), (2, 0, 0.5)]
MALFORMED, NOT_HELD = Refusal.REASON_MALFORMED, Refusal.REASON_NOT_HELD

Damage = Callable[[link_pb2.Frame], None]


def ints(*values: int) -> Damage:
    def damage(frame: link_pb2.Frame) -> None:
        frame.rows.CopyFrom(encode_tensor(torch.tensor(values, dtype=torch.int32)))

    return damage


def experts_are(*values: int) -> Damage:
    def damage(frame: link_pb2.Frame) -> None:
        frame.experts.CopyFrom(encode_tensor(torch.tensor(values, dtype=torch.int32)))

    return damage


def gates_are(*values: float) -> Damage:
    def damage(frame: link_pb2.Frame) -> None:
        frame.gates.CopyFrom(encode_tensor(torch.tensor(values)))

    return damage


def hidden_is(hidden: torch.Tensor) -> Damage:
    return lambda frame: frame.hidden.CopyFrom(encode_tensor(hidden))


def layer_is(layer: int) -> Damage:
    def damage(frame: link_pb2.Frame) -> None:
        frame.layer = layer

    return damage


def states(field: str, **changes: object) -> Damage:
    def damage(frame: link_pb2.Frame) -> None:
        tensor = getattr(frame, field)
        for name, value in changes.items():
            if name == "shape":
                tensor.shape[:] = value
            else:
                setattr(tensor, name, value)

    return damage


def empty(frame: link_pb2.Frame) -> None:
    for field in (frame.experts, frame.rows):
        field.CopyFrom(encode_tensor(torch.empty(0, dtype=torch.int32)))
    frame.gates.CopyFrom(encode_tensor(torch.empty(0)))


WRONG: dict[str, tuple[Damage, Refusal.Reason.ValueType, str]] = {
    "no such layer": (layer_is(7), MALFORMED, "layer 7"),
    "no such expert": (experts_are(0, 0, 99), MALFORMED, "no expert 99"),
    "negative expert": (experts_are(-1, 0, 2), MALFORMED, "no expert -1"),
    "not held": (experts_are(0, 0, 3), NOT_HELD, "experts 3 of layer 1"),
    "row too high": (ints(0, 2, 0), MALFORMED, "row 2"),
    "row negative": (ints(-1, 1, 0), MALFORMED, "-1"),
    "rows not sorted": (ints(1, 0, 0), MALFORMED, "increasing"),
    "pair twice": (ints(0, 0, 0), MALFORMED, "increasing"),
    "experts not sorted": (experts_are(2, 0, 0), MALFORMED, "increasing"),
    "too few rows": (ints(0, 1), MALFORMED, "pairs"),
    "too few gates": (gates_are(0.5), MALFORMED, "pairs"),
    "gate is NaN": (gates_are(0.5, math.nan, 0.5), MALFORMED, "finite"),
    "gate is infinite": (gates_are(0.5, 0.5, math.inf), MALFORMED, "finite"),
    "no pairs": (empty, MALFORMED, "empty"),
    "no rows": (hidden_is(torch.empty(0, 32)), MALFORMED, "empty"),
    "too many rows": (hidden_is(torch.zeros(17, 32)), MALFORMED, "cap"),
    "wrong width": (hidden_is(torch.zeros(2, 31)), MALFORMED, "hidden"),
    "wrong rank": (hidden_is(torch.zeros(64)), MALFORMED, "dimensions"),
    "wrong dtype": (hidden_is(torch.zeros(2, 32).bfloat16()), MALFORMED, "float32"),
    "row that is NaN": (hidden_is(torch.full((2, 32), torch.nan)), MALFORMED, "finite"),
    "row that is infinite": (hidden_is(torch.full((2, 32), -torch.inf)), MALFORMED, "finite"),
    "row beyond all models": (hidden_is(torch.full((2, 32), -1e13)), MALFORMED, "larger"),
    "unknown dtype": (states("hidden", dtype=77), MALFORMED, "77"),
    "no hidden at all": (lambda frame: frame.ClearField("hidden"), MALFORMED, "hidden"),
    "no gates at all": (lambda frame: frame.ClearField("gates"), MALFORMED, "gates"),
    "4 GB length": (states("hidden", length=4 << 30), MALFORMED, "bytes"),
    "4 GB shape": (states("hidden", shape=[1 << 25, 32]), MALFORMED, "cap"),
    "overflowing shape": (states("hidden", shape=[(1 << 32) - 1, 32]), MALFORMED, "cap"),
    "data cut short": (states("hidden", data=b"\0" * 8), MALFORMED, "bytes"),
    "too many pairs": (states("rows", shape=[1 << 30], length=4 << 30), MALFORMED, "cap"),
    "float rows": (lambda frame: frame.rows.CopyFrom(frame.gates), MALFORMED, "rows"),
}


@pytest.fixture
async def link(
    coordinator: ScriptedCoordinator, experts: BareExperts, tmp_path: Path
) -> AsyncIterator[ScriptedLink]:
    """A node that holds experts 0 to 2 of layer 1."""
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys[:3]), ready=experts.keys[:3])
        yield link


async def test_every_wrong_frame_is_refused_and_the_node_goes_on(link: ScriptedLink) -> None:
    for name, (damage, reason, detail) in WRONG.items():
        frame = link.frame(1, torch.randn(2, 32), GOOD)
        damage(frame)
        refusal = await link.answer(frame)
        assert isinstance(refusal, Refusal), name
        assert (refusal.reason, detail in refusal.detail) == (reason, True), (name, refusal)
        good = link.frame(1, torch.randn(2, 32), GOOD)
        result = await link.answer(good)
        assert isinstance(result, link_pb2.Result), name
        link.check(good, result)


async def test_what_leads_to_no_numbers_is_not_signed(link: ScriptedLink) -> None:
    frame = link.frame(1, torch.randn(2, 32), GOOD)
    gates_are(3e38, 3e38, 3e38)(frame)
    refusal = await link.answer(frame)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, "larger" in refusal.detail) == (MALFORMED, True)


async def test_tiny_rows_are_answered(link: ScriptedLink) -> None:
    for size in (1e-18, 1e-30, 1e-42, 0.0):
        frame = link.frame(1, torch.full((2, 32), size), GOOD)
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result), size
        link.check(frame, result)


@pytest.mark.parametrize("step", [0, -1])
async def test_a_sequence_that_does_not_increase_is_refused(link: ScriptedLink, step: int) -> None:
    first = link.frame(1, torch.randn(2, 32), GOOD)
    first.sequence = 10
    assert isinstance(await link.answer(first), link_pb2.Result)
    first.sequence += step
    refusal = await link.answer(first)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == MALFORMED
    first.sequence = 11
    assert isinstance(await link.answer(first), link_pb2.Result)


@pytest.mark.parametrize("name", WRONG)
def test_the_reader_alone_refuses_with_the_same_reason(name: str, experts: BareExperts) -> None:
    damage, reason, detail = WRONG[name]
    shelf = Shelf()
    for key in experts.keys[:3]:
        shelf.add(key, Expert.load(experts.manifest.specs[0], experts.blobs[key]))
    reader = FrameReader(experts.manifest, shelf, max_rows=16)
    frame = link_pb2.Frame(
        sequence=1,
        layer=1,
        hidden=encode_tensor(torch.randn(2, 32)),
        experts=encode_tensor(torch.tensor([0, 0, 2], dtype=torch.int32)),
        rows=encode_tensor(torch.tensor([0, 1, 0], dtype=torch.int32)),
        gates=encode_tensor(torch.tensor([0.5, 0.25, 0.5])),
    )
    work = reader.read(frame)
    assert [(group.rows.tolist(), group.gates.tolist()) for group in work.groups] == [
        ([0, 1], [0.5, 0.25]),
        ([0], [0.5]),
    ]
    damage(frame)
    with pytest.raises(Refused, match=detail) as refused:
        reader.read(frame)
    assert refused.value.reason == reason
    assert reason in (Reason.REASON_MALFORMED, Reason.REASON_NOT_HELD)
