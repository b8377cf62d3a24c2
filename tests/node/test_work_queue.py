"""Frames come before challenges, each in their order; a challenge does not wait beyond its patience, and wakes a thread that waits."""

from __future__ import annotations

import math
import queue
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node.work_queue import WorkQueue


@given(st.lists(st.booleans(), max_size=40))
def test_frames_come_first_and_each_kind_in_order(kinds: list[bool]) -> None:
    work: WorkQueue[tuple[bool, int]] = WorkQueue()
    for place, challenge in enumerate(kinds):
        work.put_patient((True, place), math.inf) if challenge else work.put((False, place))
    frames = [(False, place) for place, challenge in enumerate(kinds) if not challenge]
    challenges = [(True, place) for place, challenge in enumerate(kinds) if challenge]
    assert [work.get() for _ in kinds] == frames + challenges


def test_a_challenge_whose_patience_is_over_comes_in_its_place() -> None:
    work: WorkQueue[str] = WorkQueue()
    work.put("first")
    work.put_patient("impatient", time.monotonic() - 1)
    work.put_patient("patient", math.inf)
    work.put("second")
    assert [work.get() for _ in range(4)] == ["first", "impatient", "second", "patient"]


@given(st.lists(st.booleans(), max_size=40))
def test_whoever_is_at_patient_work_gets_the_frames_and_nothing_else(kinds: list[bool]) -> None:
    work: WorkQueue[tuple[bool, int]] = WorkQueue()
    for place, challenge in enumerate(kinds):
        work.put_patient((True, place), math.inf) if challenge else work.put((False, place))
    for place, challenge in enumerate(kinds):
        if not challenge:
            assert work.get_waiting() == (False, place)
    with pytest.raises(queue.Empty):
        work.get_waiting()
    assert [work.get() for _ in range(sum(kinds))] == [
        (True, place) for place, challenge in enumerate(kinds) if challenge
    ]


def test_a_challenge_wakes_the_thread() -> None:
    work: WorkQueue[str] = WorkQueue()
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(work.get()))
    thread.start()
    work.put_patient("challenge", math.inf)
    thread.join(30)
    assert got == ["challenge"]


def test_nothing_is_lost_when_one_puts_while_another_takes() -> None:
    work: WorkQueue[int] = WorkQueue()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(work.get() for _ in range(6000)))
    thread.start()
    for number in range(6000):
        work.put_patient(number, math.inf) if number % 3 else work.put(number)
    thread.join(60)
    assert sorted(got) == list(range(6000))
    assert [number for number in got if number % 3 == 0] == list(range(0, 6000, 3))
