"""Each adversary is a real node on a real link, and cheats in the way that its name says and in no other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from folkmoot.bench.adversaries import cheap_weights
from folkmoot.bench.adversaries.claims import Claim, claimed
from folkmoot.bench.adversaries.executors import FRAMES_UNWATCHED, SLOW_SHARE
from folkmoot.bench.adversaries.kinds import Adversary, Fate
from folkmoot.bench.adversaries.nodes import AdversaryNode
from folkmoot.bench.adversaries.weak_keys import SMALL_ORDER_KEYS, WeakIdentity
from folkmoot.ids import ExpertKey, SessionId
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.kernels.opening import open_expert
from folkmoot.protos.codec import decode_tensor
from folkmoot.protos.folkmoot.v1 import link_pb2, tensor_pb2
from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.expert_oracle import ALL_FORMS, decoded, random_bytes, relative_error
from folkmoot.tests.support.running_node import node_settings
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator
from folkmoot.tests.support.scripted_link import ScriptedLink
from folkmoot.trust import expert_arithmetic
from folkmoot.trust.expert_arithmetic import ExpertForm, ExpertRows, ExpertWeights
from folkmoot.trust.keys import BadSignatureError, Identity, MissingSignatureError, VerifyingKey, WeakKeyError
from folkmoot.trust.projections import derive_projections
from folkmoot.trust.receipts import CreditedResult, ReceiptChain
from folkmoot.trust.residuals import OpenedExpert, Stage, residuals
from folkmoot.trust.sketch import sketch_expert

HIDDEN, INTERMEDIATE = 64, 96
PAIRS = [(0, 0, 0.5), (0, 1, 0.5), (0, 2, 0.5), (2, 0, 0.25), (2, 1, 0.5), (2, 3, 1.0)]
EXACT = (0.0, 1e-5)
CHEAP = {
    Adversary.INT8_CHANNEL: (0.004, 0.03),
    Adversary.INT8_BLOCK: (0.003, 0.02),
    Adversary.FP8: (0.02, 0.1),
    Adversary.INT4: (0.05, 0.3),
    Adversary.LOW_RANK: (0.02, 0.4),
    Adversary.PARTIAL_NEURONS: (0.1, 0.9),
    Adversary.WRONG_EXPERT: (0.8, 2.5),
}
"""Relative error of outputs whose openings are as wrong as they."""
CHANGED = {
    Adversary.ZEROS: (1.0, 1.0),
    Adversary.GARBAGE: (1.0, 1.8),
    Adversary.STALE_OUTPUT: (0.7, 3.0),
    Adversary.BIAS: (0.0099, 0.0101),
    Adversary.FIXED_DIRECTION: (0.0029, 0.0031),
    Adversary.HONEST_OPENING: CHEAP[Adversary.INT8_CHANNEL],
}
"""Relative error of outputs whose openings are right."""
RIGHT_RESULTS = (Adversary.SMALL_ORDER_KEY, Adversary.RECEIPTS_FOR_WORK_NOT_DONE)
"""What is rejected of these is no result."""
OPENS_BADLY = (
    Adversary.NO_OPENING,
    Adversary.LATE_OPENING,
    Adversary.SLOW_OPENING,
    Adversary.FORGED_OPENING,
    Adversary.REPLAYED_OPENING,
)


@pytest.fixture(scope="module")
def experts() -> BareExperts:
    return BareExperts.make(hidden=HIDDEN, intermediate=INTERMEDIATE)


@asynccontextmanager
async def attached(experts: BareExperts, folder: Path, adversary: Adversary) -> AsyncIterator[ScriptedLink]:
    """The link of a node that cheats and holds every expert."""
    coordinator = ScriptedCoordinator(experts, folder / "coordinator")
    await coordinator.start()
    node = AdversaryNode(node_settings(coordinator.invite, folder / "node"), adversary=adversary)
    await node.start()
    try:
        link = await coordinator.link()
        await link.settled(link.assign(experts.keys), ready=experts.keys)
        yield link
    finally:
        await node.stop()
        await coordinator.stop()


def frame_of(
    link: ScriptedLink, rows: int = 4, pairs: Sequence[tuple[int, int, float]] = PAIRS, seed: int = 0
) -> link_pb2.Frame:
    hidden = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return link.frame(1, hidden, pairs)


async def results(link: ScriptedLink, *frames: link_pb2.Frame) -> list[link_pb2.Result]:
    for frame in frames:
        link.send(link_pb2.CoordinatorMessage(frame=frame))
    answers = [await link.answer_to(frame.sequence) for frame in frames]
    return [answer for answer in answers if isinstance(answer, link_pb2.Result)]


def numbers(tensor: tensor_pb2.Tensor) -> torch.Tensor:
    return decode_tensor(tensor, dtype=torch.float32, shape=(None, None), max_bytes=1 << 20, what="sent")


def output_error(
    experts: BareExperts,
    frame: link_pb2.Frame,
    result: link_pb2.Result,
    pairs: Sequence[tuple[int, int, float]] = PAIRS,
) -> float:
    return relative_error(
        numbers(result.output), experts.forward(frame.layer, numbers(frame.hidden), pairs).double()
    )


def opening_error(experts: BareExperts, challenge: link_pb2.Challenge, opening: link_pb2.Opening) -> float:
    """Of a challenge about row 1, which goes to experts 0 and 2."""
    truth = [
        open_expert(
            Expert.load(experts.manifest.specs[0], experts.blobs[ExpertKey(1, expert)]),
            numbers(challenge.hidden),
        )
        for expert in (0, 2)
    ]
    gates = torch.cat([gate for gate, _ in truth if gate is not None])
    ups = torch.cat([up for _, up in truth])
    return max(
        relative_error(numbers(opening.gate), gates.double()),
        relative_error(numbers(opening.up), ups.double()),
    )


@pytest.mark.parametrize("adversary", [*CHEAP, *CHANGED])
async def test_outputs_are_wrong_by_what_the_name_says_and_openings_follow_it(
    experts: BareExperts, tmp_path: Path, adversary: Adversary
) -> None:
    async with attached(experts, tmp_path, adversary) as link:
        first, frame = frame_of(link), frame_of(link, seed=1)
        _, result = await results(link, first, frame)
        link.check(frame, result)
        low, high = (CHEAP | CHANGED)[adversary]
        assert low * (1 - 1e-5) <= output_error(experts, frame, result) <= high * (1 + 1e-5)
        challenge = link.challenge(frame, result, [1])
        opening = await link.opening(challenge)
        link.check_opening(challenge, opening)
        low, high = CHEAP.get(adversary, EXACT)
        assert low / 2 <= opening_error(experts, challenge, opening) <= high
    assert adversary.fate is Fate.VERDICT


async def test_a_biased_direction_is_the_same_for_all_rows(experts: BareExperts, tmp_path: Path) -> None:
    async with attached(experts, tmp_path, Adversary.FIXED_DIRECTION) as link:
        frame = frame_of(link)
        (result,) = await results(link, frame)
        added = numbers(result.output) - experts.forward(1, numbers(frame.hidden), PAIRS)
        directions = added / added.norm(dim=1, keepdim=True)
        assert float((directions @ directions.T).min()) > 0.99


async def test_stale_outputs_are_those_of_the_frame_before(experts: BareExperts, tmp_path: Path) -> None:
    async with attached(experts, tmp_path, Adversary.STALE_OUTPUT) as link:
        frames = [frame_of(link, 4), frame_of(link, 6)]
        first, second = await results(link, *frames)
        assert output_error(experts, frames[0], first) <= 1e-5
        torch.testing.assert_close(numbers(second.output)[:4], numbers(first.output))


async def test_every_128th_row_is_left_out_and_no_other(experts: BareExperts, tmp_path: Path) -> None:
    async with attached(experts, tmp_path, Adversary.ONE_ROW_IN_128) as link:
        pairs = [(0, row, 1.0) for row in range(12)]
        frames = [frame_of(link, 12, pairs) for _ in range(22)]
        rows = []
        for frame in frames:
            (result,) = await results(link, frame)
            link.check(frame, result)
            rows.append(numbers(result.output).abs().amax(dim=1))
        assert (torch.cat(rows) == 0).nonzero().flatten().tolist() == [127, 255]
        challenge = link.challenge(frames[0], result, [1])
        assert opening_error_of_one(experts, challenge, await link.opening(challenge)) <= 1e-5


def opening_error_of_one(
    experts: BareExperts, challenge: link_pb2.Challenge, opening: link_pb2.Opening
) -> float:
    expert = Expert.load(experts.manifest.specs[0], experts.blobs[ExpertKey(1, 0)])
    return relative_error(numbers(opening.up), open_expert(expert, numbers(challenge.hidden))[1].double())


async def test_a_wary_cheat_is_honest_until_nobody_looks_and_again_once_somebody_does(
    experts: BareExperts, tmp_path: Path
) -> None:
    async with attached(experts, tmp_path, Adversary.WHEN_UNWATCHED) as link:
        frames = [frame_of(link) for _ in range(FRAMES_UNWATCHED + 1)]
        answers = []
        for frame in frames:
            answers += await results(link, frame)
        errors = [output_error(experts, frame, answer) for frame, answer in zip(frames, answers, strict=True)]
        assert max(errors[:-1]) <= 1e-5 < CHEAP[Adversary.INT8_CHANNEL][0] <= errors[-1]
        for at, (low, high) in ((0, EXACT), (-1, CHEAP[Adversary.INT8_CHANNEL])):
            challenge = link.challenge(frames[at], answers[at], [1])
            opening = await link.opening(challenge)
            link.check_opening(challenge, opening)
            assert low / 2 <= opening_error(experts, challenge, opening) <= high
        frame = frame_of(link)
        (honest,) = await results(link, frame)
        assert output_error(experts, frame, honest) <= 1e-5


@pytest.mark.parametrize("adversary", OPENS_BADLY)
async def test_openings_are_missed_late_or_not_their_own(
    experts: BareExperts, tmp_path: Path, adversary: Adversary
) -> None:
    async with attached(experts, tmp_path, adversary) as link:
        frame = frame_of(link)
        (result,) = await results(link, frame)
        link.check(frame, result)
        low, high = EXACT if adversary is Adversary.FORGED_OPENING else CHEAP[Adversary.INT8_CHANNEL]
        assert low <= output_error(experts, frame, result) <= high
        if adversary in (Adversary.NO_OPENING, Adversary.LATE_OPENING, Adversary.SLOW_OPENING):
            challenge = link.challenge(frame, result, [1], deadline_ms=500)
            sent_s = time.monotonic()
            link.send(link_pb2.CoordinatorMessage(challenge=challenge))
            (next_result,) = await results(link, later := frame_of(link))
            link.check(later, next_result)
            if adversary is Adversary.NO_OPENING:
                assert not link.openings
            else:
                opening = await link.opening_to(challenge.nonce)
                is_late = adversary is Adversary.LATE_OPENING
                assert time.monotonic() - sent_s > (0.5 if is_late else 0.5 * SLOW_SHARE)
                link.check_opening(challenge, opening)
                assert (opening_error(experts, challenge, opening) <= 1e-5) is is_late
            return
        first, second = link.challenge(frame, result, [1]), link.challenge(frame, result, [1])
        openings = [await link.opening(first), await link.opening(second)]
        if adversary is Adversary.REPLAYED_OPENING:
            link.check_opening(first, openings[0])
            assert openings[0].signature == openings[1].signature
        with pytest.raises(BadSignatureError):
            link.check_opening(second, openings[1])


@pytest.mark.parametrize(
    "adversary", [kind for kind in Adversary if kind.fate is Fate.REJECTED and kind not in RIGHT_RESULTS]
)
async def test_results_that_break_the_protocol_do_not_verify(
    experts: BareExperts, tmp_path: Path, adversary: Adversary
) -> None:
    async with attached(experts, tmp_path, adversary) as link:
        frames = [frame_of(link), frame_of(link, seed=1)]
        first, second = await results(link, *frames)
        if adversary is Adversary.REPLAY:
            link.check(frames[0], first)
            assert second.signature == first.signature and second.output == first.output
        if adversary is Adversary.REORDER:
            first, second = second, first
            first.sequence, second.sequence = frames[0].sequence, frames[1].sequence
            link.check(frames[0], first)
            link.check(frames[1], second)
            first, second = second, first
        missing = adversary is Adversary.EMPTY_SIGNATURE
        with pytest.raises(MissingSignatureError if missing else BadSignatureError):
            link.check(frames[1], second)
        if adversary is Adversary.MALLEATED_SIGNATURE:
            assert len(second.signature) == 64 and second.signature[63] >= 0x10
        if adversary not in (Adversary.REPLAY, Adversary.REORDER):
            assert output_error(experts, frames[1], second) <= 1e-5


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS)
def test_cheap_weights_stand_for_experts_of_every_form(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    spec = ExpertSpec(96, 64, form, layout, activation)
    expert = Expert.load(spec, random_bytes(spec, 4))
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(4))

    def answer(held: Expert) -> torch.Tensor:
        return feed_forward([Group(held, torch.arange(5), torch.ones(5))], x)

    truth = answer(expert).double()
    for cheapen, low, high in (
        (cheap_weights.int8_channel, 0.0, 0.05),
        (cheap_weights.int8_block, 0.0, 0.05),
        (cheap_weights.fp8, 0.0, 0.2),
        (cheap_weights.int4, 0.0, 0.5),
        (cheap_weights.low_rank, 1e-3, 0.9),
        (cheap_weights.partial_neurons, 0.05, 0.9),
        (cheap_weights.turned, 0.5, 3.0),
    ):
        assert low <= relative_error(answer(cheapen(expert)), truth) <= high, cheapen.__name__


@pytest.mark.parametrize(
    ("adversary", "failing"),
    [
        (Adversary.FORGED_OPENING, set()),
        (Adversary.INT8_BLOCK, {Stage.OPENED, Stage.OUTPUT}),
        (Adversary.HONEST_OPENING, {Stage.OUTPUT}),
        (Adversary.BIAS, {Stage.OUTPUT}),
        (Adversary.WRONG_EXPERT, {Stage.OPENED, Stage.OUTPUT}),
    ],
)
async def test_what_nodes_open_leaves_residuals_where_they_cheat(
    experts: BareExperts, tmp_path: Path, adversary: Adversary, failing: set[Stage]
) -> None:
    """What is tightly opened over the wire goes through the audit's own arithmetic; a forger's numbers are right."""
    projections = derive_projections(bytes(32), 0, experts.manifest.digest, 1, HIDDEN, INTERMEDIATE)
    sketches = {}
    for number in (0, 2):
        parts = decoded(experts.manifest.specs[0], experts.blobs[ExpertKey(1, number)])
        weights = ExpertWeights(parts["gate"], parts["up"], parts["down"])
        sketches[number] = sketch_expert(projections, weights)
    async with attached(experts, tmp_path, adversary) as link:
        frame = frame_of(link)
        (result,) = await results(link, frame)
        challenge = link.challenge(frame, result, [0, 1])
        opening = await link.opening(challenge)
    gate, up = numbers(opening.gate).numpy(), numbers(opening.up).numpy()
    opened = [
        OpenedExpert(ExpertRows(0, np.array([0, 1]), np.array([0.5, 0.5], np.float32)), gate[:2], up[:2]),
        OpenedExpert(ExpertRows(2, np.array([0, 1]), np.array([0.25, 0.5], np.float32)), gate[2:], up[2:]),
    ]
    left = residuals(
        ExpertForm(expert_arithmetic.Activation.SWIGLU),
        projections,
        sketches,
        numbers(challenge.hidden).numpy(),
        numbers(result.output)[:2].numpy(),
        opened,
    )
    assert {stage for stage, part in left.items() if float(part.by_row.max()) > 1e-4} == failing
    assert all(float(part.by_row.max()) < 3.4e-6 for stage, part in left.items() if stage not in failing)


@pytest.mark.parametrize("claim", Claim)
def test_claims_are_for_more_than_was_done_or_for_somebody_else(claim: Claim) -> None:
    node, coordinator = Identity.generate(), Identity.generate()
    chain = ReceiptChain(coordinator.public, node.public, SessionId(bytes(32)), bytes(32))
    given = chain.next(None, [CreditedResult(1, bytes(32), 3, 300)], 1, 0)
    receipt, signer = claimed(claim, given, node)
    if claim is Claim.ANOTHER_SIGNER:
        assert receipt == given and signer.public != node.public
        return
    assert signer is node and receipt.digest() != given.digest()
    assert receipt.rows > given.rows and receipt.row_bytes > given.row_bytes
    assert (receipt.previous == given.digest()) is (claim is Claim.NEVER_GIVEN)


def test_every_key_of_small_order_is_tried_and_none_is_a_nodes() -> None:
    assert len(set(SMALL_ORDER_KEYS)) == 14
    for public in SMALL_ORDER_KEYS:
        with pytest.raises(WeakKeyError):
            VerifyingKey(public)
        weak = WeakIdentity(public)
        assert weak.public == public and weak.sign(b"one") == weak.sign(b"another")


def test_every_adversary_is_tested() -> None:
    alone = {Adversary.ONE_ROW_IN_128, Adversary.WHEN_UNWATCHED}
    assert {kind for kind in Adversary if kind.fate is not Fate.REJECTED} == {
        *CHEAP,
        *CHANGED,
        *OPENS_BADLY,
        *alone,
    }
    assert [kind for kind in Adversary if kind.fate is Fate.STRIKES] == [Adversary.FORGED_OPENING]
