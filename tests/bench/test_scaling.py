"""A rationed node takes as long as it is told and never longer than that without need; the report knows when a doubling was enough."""

from __future__ import annotations

import pytest
import torch

from folkmoot.bench import scaling
from folkmoot.bench.rationed import Ration
from folkmoot.kernels.feed_forward import Group
from folkmoot.node.frames import Work
from folkmoot.node.routing import Routing
from folkmoot.tests.support.memory_experts import MemoryExperts

MODEL = MemoryExperts()
KEY = min(MODEL.manifest.experts)
SIZE = MODEL.manifest.expert_bytes(KEY)


def work(*rows: int) -> Work:
    groups = [Group(MODEL.expert(KEY), torch.arange(count), torch.ones(count)) for count in rows]
    hidden = torch.zeros(max(rows), MODEL.manifest.hidden)
    return Work(1, KEY.layer, hidden, groups, Routing((), sum(rows), max(rows), b""), b"")


@pytest.mark.parametrize(("computed_s", "slept_s"), [(0.0, 5.0), (4.0, 1.0), (7.0, 0.0)])
def test_a_frame_takes_what_its_rows_and_bytes_are_worth(computed_s: float, slept_s: float) -> None:
    slept: list[float] = []
    ration = Ration(SIZE, clock=lambda: 100.0 + computed_s, sleep=slept.append)
    ration.spend(100.0, work(2, 3))
    assert sum(slept) == pytest.approx(slept_s)


def curve(*speeds: float) -> list[dict[str, float]]:
    return [
        {"nodes": nodes, "tokens_per_second": speed, "ideal": speed}
        for nodes, speed in zip((2, 4, 8), speeds, strict=False)
    ]


def test_a_doubling_gives_enough_or_the_coordinator_is_the_limit() -> None:
    grows = scaling.report(curve(10, 19, 35), alone_speed=100, limit=90)
    assert [doubling["enough"] for doubling in grows["doublings"]] == [True, True]
    stuck = scaling.report(curve(10, 19, 25), alone_speed=100, limit=90)
    assert [doubling["enough"] for doubling in stuck["doublings"]] == [True, False]
    limited = scaling.report(curve(10, 19, 25), alone_speed=100, limit=30)
    assert limited["doublings"][-1]["coordinator_is_the_limit"]
    assert limited["doublings"][-1]["enough"]


def test_every_stream_asks_something_else() -> None:
    prompts = scaling._prompts()
    assert len({tuple(prompt) for prompt in prompts}) == scaling.STREAMS
