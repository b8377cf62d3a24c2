"""The coordinator as one host among others: measured like them, asked when it is the fastest, relieved when it is not, left out when it
fails, and there when a node fails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from folkmoot.coordinator.dispatch.choice import HostEstimate, choose
from folkmoot.coordinator.self_host import hosting, own_host
from folkmoot.kernels.backend import Processor
from folkmoot.kernels.feed_forward import Group
from folkmoot.kernels.first_products import FirstProducts
from folkmoot.tests.support.asking import ask, greedy_text
from folkmoot.tests.support.faulty_node import Fault, FaultyNode
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.whole_network import whole_network

TOKENS = 10
FRAME_COST_S = 0.001
SPEED = 1 / 12e9
BIG, SMALL = 12e9 * 0.02, 12e9 * 0.0001
"""Work of 20 ms, and of 0.1 ms."""
HERE, NODE = HostEstimate(0.0, SPEED, here=True), HostEstimate(0.002, SPEED)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return TinyModels(tmp_path_factory.mktemp("own-host-models")).get("mixtral")


def test_what_is_quickly_done_is_done_here() -> None:
    assert choose([SMALL] * 4, [[0, 1]] * 4, [NODE, HERE], FRAME_COST_S) == [1] * 4


def test_a_node_takes_its_part_of_much_work() -> None:
    chosen = choose([BIG] * 8, [[0, 1]] * 8, [HERE, NODE], FRAME_COST_S)
    assert sorted(chosen) == [0] * 4 + [1] * 4


def test_a_coordinator_that_is_busy_leaves_it_to_nodes() -> None:
    busy = HostEstimate(1.0, SPEED, here=True)
    assert choose([SMALL] * 4, [[0, 1]] * 4, [busy, NODE], FRAME_COST_S) == [1] * 4


def test_what_nodes_need_not_be_asked_for_is_done_here_though_they_are_asked_for_the_rest() -> None:
    """No frame is saved by sending it all to the node; the work is."""
    assert choose([SMALL] * 2, [[0, 1], [1]], [HERE, NODE], FRAME_COST_S) == [0, 1]


class Slow(Processor):
    """A coordinator that has no time: by its own clock each computation takes a second."""

    def __init__(self) -> None:
        super().__init__()
        self._spent_s = 0.0

    def clock(self) -> float:
        """What it measures itself by."""
        return time.monotonic() + self._spent_s

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        self._spent_s += 1.0
        return super().feed_forward(groups, hidden, first)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator is so."""
    backend = Slow()
    monkeypatch.setattr(hosting, "OwnHost", partial(own_host.OwnHost, backend=backend, clock=backend.clock))


class Failing(Processor):
    """A coordinator whose device has no memory left."""

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        raise RuntimeError("out of memory")


def everything(model: TinyModel) -> int:
    return model.prepared.manifest.total_expert_bytes


@pytest.mark.usefixtures("slow")
async def test_a_node_that_joins_takes_work_off_a_slow_coordinator(model: TinyModel, tmp_path: Path) -> None:
    expected = greedy_text(model, TOKENS)
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=everything(model)) as network:
        await network.settled(0)
        alone = await ask(network, TOKENS)
        node = await network.join()
        await network.settled(1)
        helped = await ask(network, TOKENS)
    assert alone["choices"][0]["text"] == helped["choices"][0]["text"] == expected
    assert helped["folkmoot"]["nodes"] == [node.node_id]
    assert helped["folkmoot"]["results_own"] < alone["folkmoot"]["results_own"] / 2


async def test_a_coordinator_that_cannot_compute_leaves_it_to_nodes(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_host, "choose_backend", Failing)
    async with whole_network(model.prepared, tmp_path, nodes=1, self_host_bytes=everything(model)) as network:
        document = await ask(network, TOKENS)
    assert document["choices"][0]["text"] == greedy_text(model, TOKENS)
    assert document["folkmoot"]["results_own"] == 0
    assert document["folkmoot"]["retries"] > 0


@pytest.mark.usefixtures("slow")
async def test_what_a_node_answers_wrongly_is_computed_here(model: TinyModel, tmp_path: Path) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=0, self_host_bytes=everything(model)) as network:
        await network.settled(0)
        await ask(network, 2)
        await network.join(kind=partial(FaultyNode, fault=Fault.NAN, honest_frames=0))
        await network.settled(1)
        document = await ask(network, TOKENS)
    assert document["choices"][0]["text"] == greedy_text(model, TOKENS)
    assert document["folkmoot"]["results_rejected"] >= 1
    assert document["folkmoot"]["results_own"] >= TOKENS
