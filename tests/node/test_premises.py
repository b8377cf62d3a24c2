"""What links share: one product at a time, and one rate up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group
from folkmoot.kernels.first_products import FirstProducts
from folkmoot.node.premises import TakingTurns
from folkmoot.protos.folkmoot.v1 import link_pb2
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.scripted_coordinator import ScriptedCoordinator

THREADS, PRODUCTS = 4, 50


class Watched:
    """A backend that notes whether two threads were in it at once."""

    def __init__(self) -> None:
        self.inside = self.done = self.most = 0

    def describe(self) -> str:
        """Nothing to say."""
        return ""

    def prepare(self, expert: Expert) -> None:
        """Nothing."""

    def feed_forward(
        self, groups: Sequence[Group], hidden: torch.Tensor, first: FirstProducts | None = None
    ) -> torch.Tensor:
        """Gives other threads every opportunity."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0)
        self.done += 1
        self.inside -= 1
        return hidden


def test_products_of_several_links_take_turns() -> None:
    watched = Watched()
    backend, row = TakingTurns(watched), torch.zeros(1, 1)

    def compute() -> None:
        for _ in range(PRODUCTS):
            backend.feed_forward([], row)

    threads = [threading.Thread(target=compute) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (watched.done, watched.most) == (THREADS * PRODUCTS, 1)


async def test_results_leave_no_faster_than_the_contributor_lets_them(
    coordinator: ScriptedCoordinator, tmp_path: Path
) -> None:
    rate, count = 6_000, 60
    async with running_node(coordinator.invite, tmp_path / "node", upload_bytes_per_s=rate):
        link = await coordinator.link()
        key = ExpertKey(1, 0)
        await link.settled(link.assign([key]), ready=[key])
        frames = [link.frame(1, torch.ones(1, 32), [(0, 0, 1.0)]) for _ in range(count)]
        began_s = time.monotonic()
        for frame in frames:
            link.send(link_pb2.CoordinatorMessage(frame=frame))
        sent = 0
        for frame in frames:
            answer = await link.answer_to(frame.sequence)
            assert isinstance(answer, link_pb2.Result)
            sent += answer.ByteSize()
        # The bucket holds one second's bytes.
        assert time.monotonic() - began_s > sent / rate - 1.1
    assert sent > 2 * rate
