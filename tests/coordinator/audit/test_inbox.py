"""What is put in comes out in order and in batches, answers at once; nobody who puts in waits; memory is bounded and given back."""

from __future__ import annotations

import threading
import time

from folkmoot.coordinator.audit.inbox import LULL_S, Inbox
from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.tests.support.asked_node import AskedNode
from folkmoot.tests.support.memory_experts import MemoryExperts

RESULT = AskedNode(MemoryExperts(hidden=64, intermediate=48), bytes(32)).result()


def test_results_come_in_a_batch_and_in_order() -> None:
    inbox: Inbox[int] = Inbox(1 << 20)
    inbox.put(RESULT)
    inbox.answer(1)
    inbox.put(RESULT)
    inbox.answer(2)
    assert inbox.take(10) == [RESULT, 1, RESULT, 2]


def test_nothing_comes_when_the_time_is_over() -> None:
    assert Inbox[int](1 << 20).take(0.001) == []


def test_waking_ends_a_wait_for_nothing() -> None:
    inbox: Inbox[int] = Inbox(1 << 20)
    threading.Timer(0.01, inbox.wake).start()
    began_s = time.monotonic()
    assert inbox.take(60) == []
    assert time.monotonic() - began_s < 30


def test_what_does_not_fit_is_refused_until_there_is_room() -> None:
    inbox: Inbox[int] = Inbox(2 * RESULT.size)
    assert [inbox.put(RESULT) for _ in range(3)] == [True, True, False]
    inbox.take(1)
    assert not inbox.put(RESULT), "what was taken out is still kept"
    inbox.release(RESULT)
    assert inbox.put(RESULT)


def test_nothing_is_lost_between_threads() -> None:
    inbox: Inbox[int] = Inbox(1 << 30)

    def put(first: int) -> None:
        for number in range(first, first + 2000):
            inbox.put(RESULT) if number % 7 == 0 else inbox.answer(number)

    threads = [threading.Thread(target=put, args=(first,)) for first in (0, 2000, 4000)]
    for thread in threads:
        thread.start()
    taken: list[VerifiedResult | int] = []
    end_s = time.monotonic() + 30
    while len(taken) < 6000 and time.monotonic() < end_s:
        taken += inbox.take(10 * LULL_S)
    for thread in threads:
        thread.join()
    numbers = [item for item in taken if isinstance(item, int)]
    assert sorted(numbers) == [number for number in range(6000) if number % 7]
    assert len(taken) == 6000
