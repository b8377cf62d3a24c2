"""Frames out at one node: numbers without gaps, room that is kept, and answers that belong to nothing told apart."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.coordinator.dispatch.host import SentFrame
from folkmoot.coordinator.hub.outstanding import (
    LateResultError,
    Outstanding,
    ReplayedResultError,
    UnaskedResultError,
)
from folkmoot.protos.folkmoot.v1 import link_pb2


def frame(rows: int) -> SentFrame:
    return SentFrame(link_pb2.CoordinatorMessage(), rows, 1.0, 1.0, lambda frame, ending: None)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_room_order_and_numbers(sizes: list[int], room: int, seed: int) -> None:
    random = Random(seed)
    outstanding = Outstanding(room)
    offered = [frame(rows) for rows in sizes]
    waiting = list(offered)
    out: list[SentFrame] = []
    sent: list[SentFrame] = []
    while waiting or out or len(sent) < len(offered):
        if waiting and random.random() < 0.6:
            outstanding.offer(waiting.pop(0))
        elif out:
            gone = out.pop(random.randrange(len(out)))
            take = outstanding.take if random.random() < 0.7 else outstanding.expire
            assert take(gone.sequence) is gone
        admitted = outstanding.admit()
        out += admitted
        sent += admitted
        assert outstanding.rows == sum(frame.rows for frame in out)
        assert outstanding.rows <= room or len(out) == 1
    assert sent == offered
    assert [frame.sequence for frame in sent] == list(range(1, len(sent) + 1))
    assert outstanding.rows == outstanding.rows_ahead == len(outstanding) == 0


def test_answers_that_belong_to_nothing() -> None:
    outstanding = Outstanding(10)
    for _ in range(3):
        outstanding.offer(frame(1))
    outstanding.admit()
    outstanding.take(1)
    outstanding.expire(2)
    for sequence, error in (
        (1, ReplayedResultError),
        (2, LateResultError),
        (4, UnaskedResultError),
        (0, UnaskedResultError),
        (1 << 63, UnaskedResultError),
    ):
        with pytest.raises(error):
            outstanding.take(sequence)
    assert outstanding.rows == 1


def test_draining_gives_everything_back() -> None:
    outstanding = Outstanding(2)
    frames = [frame(2), frame(2), frame(1)]
    for each in frames:
        outstanding.offer(each)
    outstanding.admit()
    assert outstanding.rows_ahead == 5
    assert outstanding.drain() == frames
    assert outstanding.rows_ahead == 0
    assert outstanding.drain() == []
