"""A node opens what it is asked about, signed, raw and tight; whatever is wrong with a challenge is refused by name, and
nothing in one, not even random bytes, stops the node or the frames beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.ids import ExpertKey, SessionId
from folkmoot.kernels.expert import Expert
from folkmoot.node import challenges
from folkmoot.node.challenges import ChallengeReader, open_parts
from folkmoot.node.rows import Refused
from folkmoot.node.session import Session
from folkmoot.node.shelf import Shelf
from folkmoot.protos.codec import decode_tensor, encode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2, tensor_pb2
from folkmoot.protos.folkmoot.v1.link_pb2 import Refusal
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.expert_oracle import opened
from folkmoot.tests.support.native_isas import available
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.keys import BadSignatureError, Identity

PAIRS = [(0, 0, 0.5), (0, 2, 0.25), (1, 0, 0.5), (2, 1, 1.0), (2, 2, 0.75)]
MALFORMED, NOT_HELD = Refusal.REASON_MALFORMED, Refusal.REASON_NOT_HELD

Damage = Callable[[link_pb2.Challenge], None]


def good() -> link_pb2.Challenge:
    """Rows 0 and 2 of a frame of three rows."""
    return link_pb2.Challenge(
        sequence=1,
        result=bytes(32),
        kind=OpeningKind.TIGHT,
        nonce=bytes(range(32)),
        layer=1,
        hidden=encode_tensor(torch.ones(2, 32)),
        experts=encode_tensor(torch.tensor([0, 0, 1, 2], dtype=torch.int32)),
        rows=encode_tensor(torch.tensor([0, 1, 0, 1], dtype=torch.int32)),
        asked=[0, 2],
        deadline_ms=10_000,
    )


def sets(**fields: object) -> Damage:
    def damage(challenge: link_pb2.Challenge) -> None:
        for name, value in fields.items():
            if isinstance(value, torch.Tensor):
                getattr(challenge, name).CopyFrom(encode_tensor(value))
            elif isinstance(value, list):
                getattr(challenge, name)[:] = value
            else:
                setattr(challenge, name, value)

    return damage


def states(field: str, **changes: object) -> Damage:
    def damage(challenge: link_pb2.Challenge) -> None:
        tensor = getattr(challenge, field)
        for name, value in changes.items():
            if name == "shape":
                tensor.shape[:] = value
            else:
                setattr(tensor, name, value)

    return damage


def clears(*fields: str) -> Damage:
    def damage(challenge: link_pb2.Challenge) -> None:
        for field in fields:
            challenge.ClearField(field)  # type: ignore[arg-type]

    return damage


def pairs_are(experts: list[int], rows: list[int]) -> Damage:
    return sets(experts=torch.tensor(experts, dtype=torch.int32), rows=torch.tensor(rows, dtype=torch.int32))


WRONG: dict[str, tuple[Damage, Refusal.Reason.ValueType, str]] = {
    "no nonce": (clears("nonce"), MALFORMED, "nonce has 0 bytes"),
    "long nonce": (sets(nonce=bytes(33)), MALFORMED, "nonce has 33 bytes"),
    "no result": (clears("result"), MALFORMED, "result has 0 bytes"),
    "short result": (sets(result=bytes(31)), MALFORMED, "result has 31 bytes"),
    "no kind": (clears("kind"), MALFORMED, "kind 0"),
    "unknown kind": (sets(kind=3), MALFORMED, "kind 3"),
    "huge kind": (sets(kind=(1 << 32) - 1), MALFORMED, "kind 4294967295"),
    "no such layer": (sets(layer=7), MALFORMED, "layer 7"),
    "no hidden": (clears("hidden"), MALFORMED, "hidden"),
    "no rows at all": (sets(hidden=torch.empty(0, 32), asked=[]), MALFORMED, "empty"),
    "too many rows": (sets(hidden=torch.zeros(65, 32)), MALFORMED, "cap"),
    "wrong width": (sets(hidden=torch.zeros(2, 33)), MALFORMED, "hidden"),
    "wrong rank": (sets(hidden=torch.zeros(64)), MALFORMED, "dimensions"),
    "wrong dtype": (sets(hidden=torch.zeros(2, 32).bfloat16()), MALFORMED, "float32"),
    "unknown dtype": (states("hidden", dtype=77), MALFORMED, "77"),
    "overflowing shape": (states("hidden", shape=[(1 << 32) - 1, 32]), MALFORMED, "cap"),
    "4 GB length": (states("hidden", length=4 << 30), MALFORMED, "bytes"),
    "data cut short": (states("hidden", data=b"\0" * 8), MALFORMED, "bytes"),
    "no experts": (clears("experts"), MALFORMED, "experts"),
    "no pairs": (pairs_are([], []), MALFORMED, "empty"),
    "float experts": (sets(experts=torch.zeros(4)), MALFORMED, "experts"),
    "fewer rows than experts": (pairs_are([0, 0, 1, 2], [0, 1, 0]), MALFORMED, "pairs"),
    "too many pairs": (pairs_are([0] * 1025, [0] * 1025), MALFORMED, "cap"),
    "row too high": (pairs_are([0, 0, 1, 2], [0, 2, 0, 1]), MALFORMED, "row 2"),
    "row negative": (pairs_are([0, 0, 1, 2], [-1, 1, 0, 1]), MALFORMED, "-1"),
    "pairs not sorted": (pairs_are([0, 0, 2, 1], [0, 1, 0, 1]), MALFORMED, "increasing"),
    "pair twice": (pairs_are([0, 0, 1, 2], [1, 1, 0, 1]), MALFORMED, "increasing"),
    "no such expert": (pairs_are([0, 0, 1, 99], [0, 1, 0, 1]), MALFORMED, "no expert 99"),
    "negative expert": (pairs_are([-1, 0, 1, 2], [0, 1, 0, 1]), MALFORMED, "no expert -1"),
    "not held": (pairs_are([0, 0, 1, 3], [0, 1, 0, 1]), NOT_HELD, "experts 3 of layer 1"),
    "nothing asked for": (clears("asked"), MALFORMED, "0 rows are asked for"),
    "one asked for, two sent": (sets(asked=[0]), MALFORMED, "1 rows are asked for"),
    "asked for twice": (sets(asked=[2, 2]), MALFORMED, "increasing"),
    "asked for backwards": (sets(asked=[2, 0]), MALFORMED, "increasing"),
    "a row that no frame has": (sets(asked=[0, 1024]), MALFORMED, "row 1024"),
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


@pytest.fixture(scope="module")
def reader(experts: BareExperts) -> ChallengeReader:
    """One that holds the same."""
    shelf, digest = Shelf(), experts.manifest.digest
    for key in experts.keys[:3]:
        shelf.add(key, Expert.load(experts.manifest.specs[0], experts.blobs[key]))
    session = Session(Identity.generate(), bytes(32), SessionId(bytes(32)), digest, 64, 16)
    return ChallengeReader(session, experts.manifest, shelf)


def numbers(tensor: tensor_pb2.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return decode_tensor(tensor, dtype=dtype, shape=(None, None), max_bytes=1 << 20, what="opened")


async def answered(link: ScriptedLink) -> tuple[link_pb2.Frame, link_pb2.Result]:
    frame = link.frame(1, torch.randn(3, 32), PAIRS)
    result = await link.answer(frame)
    assert isinstance(result, link_pb2.Result)
    link.check(frame, result)
    return frame, result


@pytest.mark.parametrize("kind", OpeningKind)
async def test_an_opening_is_what_float64_says_and_is_signed(
    link: ScriptedLink, experts: BareExperts, kind: OpeningKind
) -> None:
    frame, result = await answered(link)
    challenge = link.challenge(frame, result, [0, 2], kind)
    opening = await link.opening(challenge)
    assert not opening.refused
    link.check_opening(challenge, opening)
    hidden = numbers(challenge.hidden)
    for at, (expert, row) in enumerate([(0, 0), (0, 1), (1, 0), (2, 1)]):
        blob = experts.blobs[ExpertKey(1, expert)]
        gate, up = opened(experts.manifest.specs[0], blob, hidden[row : row + 1])
        for mine, theirs in ((opening.gate, gate), (opening.up, up)):
            assert theirs is not None
            torch.testing.assert_close(numbers(mine)[at], theirs[0].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("between", [torch.bfloat16, torch.float32], ids=str)
async def test_raw_openings_are_rounded_as_results_are_and_tight_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: torch.dtype
) -> None:
    monkeypatch.setattr(challenges, "stands_in", lambda expert, rows: between)
    experts = BareExperts.make(dtype="bfloat16")
    coordinator = ScriptedCoordinator(experts, tmp_path / "coordinator")
    await coordinator.start()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        frame = link.frame(1, torch.randn(3, 32).bfloat16(), PAIRS)
        result = await link.answer(frame)
        assert isinstance(result, link_pb2.Result)
        raw_challenge = link.challenge(frame, result, [1], OpeningKind.RAW)
        tight_challenge = link.challenge(frame, result, [1])
        raw, tight = await link.opening(raw_challenge), await link.opening(tight_challenge)
        link.check_opening(raw_challenge, raw)
        link.check_opening(tight_challenge, tight)
        for mine, exact in ((raw.gate, tight.gate), (raw.up, tight.up)):
            assert torch.equal(numbers(mine, between), numbers(exact).to(between))
            assert not torch.equal(numbers(exact).bfloat16().float(), numbers(exact))
    await coordinator.stop()


@pytest.mark.skipif(not available(), reason="torch leaves nothing to keep")
@pytest.mark.parametrize("kind", OpeningKind)
async def test_what_was_computed_lately_is_opened_without_computing_it_again(
    kind: OpeningKind, link: ScriptedLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, result = await answered(link)
    again = Mock(wraps=open_parts)
    monkeypatch.setattr("folkmoot.node.executor.open_parts", again)
    challenge = link.challenge(frame, result, [0, 2], kind=kind)
    link.check_opening(challenge, await link.opening(challenge))
    assert not again.called
    other = link.challenge(frame, result, [0, 2], kind=kind)
    other.hidden.CopyFrom(encode_tensor(torch.ones(2, 32)))
    link.check_opening(other, await link.opening(other))
    assert again.call_count == 1


@pytest.mark.parametrize("part", ["gate", "up", "nonce", "kind", "asked", "result", "sequence"])
async def test_a_signature_holds_for_one_challenge_and_one_opening_only(
    link: ScriptedLink, part: str
) -> None:
    frame, result = await answered(link)
    challenge = link.challenge(frame, result, [0, 1])
    opening = await link.opening(challenge)
    match part:
        case "gate" | "up":
            tensor = getattr(opening, part)
            tensor.data = bytes([tensor.data[0] ^ 1]) + tensor.data[1:]
        case "kind":
            challenge.kind = OpeningKind.RAW
        case "asked":
            challenge.asked[:] = [0, 2]
        case "sequence":
            challenge.sequence += 1
        case _:
            setattr(challenge, part, bytes(32))
    with pytest.raises(BadSignatureError):
        link.check_opening(challenge, opening)


async def test_every_wrong_challenge_is_refused_and_the_node_goes_on(link: ScriptedLink) -> None:
    frame, result = await answered(link)
    for name, (damage, reason, detail) in WRONG.items():
        challenge = good()
        damage(challenge)
        link.send(link_pb2.CoordinatorMessage(challenge=challenge))
        refused = await link.opening_to(challenge.nonce[:32])
        assert (refused.reason, detail in refused.refused) == (reason, True), (name, refused)
        assert not refused.signature and not refused.HasField("up"), name
        right = link.challenge(frame, result, [1])
        link.check_opening(right, await link.opening(right))


@pytest.mark.parametrize("sequence", [0, 2, (1 << 64) - 1])
async def test_a_frame_that_never_came_cannot_be_asked_about(link: ScriptedLink, sequence: int) -> None:
    frame, result = await answered(link)
    challenge = link.challenge(frame, result, [0])
    challenge.sequence = sequence
    refused = await link.opening(challenge)
    assert (refused.reason, refused.refused) == (MALFORMED, f"no frame {sequence} came")


@pytest.mark.parametrize("name", WRONG)
def test_the_reader_alone_refuses_with_the_same_reason(name: str, reader: ChallengeReader) -> None:
    damage, reason, detail = WRONG[name]
    challenge = good()
    question = reader.read(challenge)
    assert [rows.tolist() for _, rows in question.parts] == [[0, 1], [0], [1]]
    damage(challenge)
    with pytest.raises(Refused, match=detail) as refused:
        reader.read(challenge)
    assert refused.value.reason == reason


def opened_or_refused(reader: ChallengeReader, challenge: link_pb2.Challenge) -> None:
    try:
        question = reader.read(challenge)
    except Refused as refused:
        assert refused.message
    else:
        pairs = sum(rows.numel() for _, rows in question.parts)
        assert open_parts(question.parts, question.hidden).up.shape == (pairs, 16)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_refusal_comes_of_bytes_that_were_changed(
    reader: ChallengeReader, data: st.DataObject
) -> None:
    encoded = bytearray(good().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        if data.draw(st.booleans()):
            encoded[at] = data.draw(st.integers(0, 255))
        else:
            del encoded[at]
    challenge = link_pb2.Challenge()
    try:
        challenge.ParseFromString(bytes(encoded))
    except DecodeError:  # the link refuses such bytes before there is a challenge
        return
    opened_or_refused(reader, challenge)


TENSORS = st.builds(
    tensor_pb2.Tensor,
    dtype=st.integers(0, 5),
    shape=st.lists(st.integers(0, 40) | st.integers(0, (1 << 32) - 1), max_size=3),
    length=st.integers(0, 300) | st.integers(0, (1 << 64) - 1),
    data=st.binary(max_size=300),
)


@given(
    challenge=st.builds(
        link_pb2.Challenge,
        sequence=st.integers(0, (1 << 64) - 1),
        result=st.binary(max_size=40) | st.just(bytes(32)),
        kind=st.integers(0, 3),
        nonce=st.binary(max_size=40) | st.just(bytes(32)),
        layer=st.sampled_from([0, 1, 2, 3, (1 << 32) - 1]),
        hidden=TENSORS | st.just(encode_tensor(torch.ones(2, 32))),
        experts=TENSORS | st.just(encode_tensor(torch.tensor([0, 1], dtype=torch.int32))),
        rows=TENSORS | st.just(encode_tensor(torch.tensor([0, 1], dtype=torch.int32))),
        asked=st.lists(st.integers(0, (1 << 32) - 1), max_size=3) | st.just([4, 5]),
        deadline_ms=st.integers(0, (1 << 32) - 1),
    )
)
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_refusal_comes_of_random_fields(
    reader: ChallengeReader, challenge: link_pb2.Challenge
) -> None:
    opened_or_refused(reader, challenge)


async def test_before_the_manifest_is_there_challenges_are_refused(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.script.before_manifest = asyncio.Event()
    async with running_node(coordinator.invite, tmp_path / "node"):
        link = await coordinator.link()
        refused = await link.opening(good())
        assert (refused.reason, refused.nonce) == (NOT_HELD, good().nonce)
        coordinator.script.before_manifest.set()
