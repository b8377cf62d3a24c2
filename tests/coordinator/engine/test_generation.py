"""A generation hands deltas from a thread to its reader, in an event loop or a thread, and ends with its reader."""

from __future__ import annotations

import asyncio
import threading

import pytest

from folkmoot.coordinator.engine.faults import EngineFault
from folkmoot.coordinator.engine.generation import Generation
from folkmoot.coordinator.engine.requests import Delta, FinishReason
from folkmoot.ids import NodeId
from folkmoot.models.pool import StepTally


class Reader:
    """A generation, and how often it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.cancellations = 0
        self.generation = Generation("g", 3, self._cancel)

    def _cancel(self) -> None:
        self.cancellations += 1
        self.cancelled.set()


def delta(text: str, finish_reason: FinishReason | None = None) -> Delta:
    return Delta(text, (1,), None, finish_reason)


async def test_deltas_cross_from_a_thread_in_order() -> None:
    reader = Reader()
    count = 200

    def make() -> None:
        for number in range(count):
            reader.generation.push(delta(f"{number} ", "length" if number == count - 1 else None))

    thread = threading.Thread(target=make)
    thread.start()
    text = "".join([piece.text async for piece in reader.generation])
    thread.join()
    assert text == "".join(f"{number} " for number in range(count))
    assert reader.generation.completion_tokens == count
    assert not reader.cancellations


async def test_a_reader_that_waits_is_woken_by_each_delta() -> None:
    reader = Reader()
    stream = aiter(reader.generation)
    for text in "abc":
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert not waiting.done()
        threading.Thread(target=reader.generation.push, args=(delta(text),)).start()
        assert (await asyncio.wait_for(waiting, 60)).text == text
    await stream.aclose()


async def test_deltas_before_a_failure_are_read_first() -> None:
    reader = Reader()
    reader.generation.push(delta("a"))
    reader.generation.fail(EngineFault("broken"))
    read = []
    with pytest.raises(EngineFault):
        async for piece in reader.generation:
            read.append(piece.text)
    assert read == ["a"]
    assert not reader.cancellations


async def test_a_failure_wakes_a_reader_that_waits() -> None:
    reader = Reader()
    waiting = asyncio.ensure_future(anext(aiter(reader.generation)))
    await asyncio.sleep(0)
    threading.Thread(target=reader.generation.fail, args=(EngineFault("broken"),)).start()
    with pytest.raises(EngineFault):
        await asyncio.wait_for(waiting, 60)


async def test_a_task_that_is_cancelled_cancels_the_answer() -> None:
    reader = Reader()
    waiting = asyncio.ensure_future(anext(aiter(reader.generation)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert reader.cancellations == 1


async def test_leaving_the_iteration_cancels_the_answer() -> None:
    reader = Reader()
    reader.generation.push(delta("a"))

    async def read_one() -> None:
        async for _ in reader.generation:
            return

    await read_one()
    assert await asyncio.to_thread(reader.cancelled.wait, 10)


def test_a_reader_whose_loop_is_gone_cancels_the_answer() -> None:
    reader = Reader()
    loop = asyncio.new_event_loop()

    async def wait_for_nothing() -> asyncio.Task[Delta]:
        task = asyncio.ensure_future(anext(aiter(reader.generation)))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(wait_for_nothing())
    loop.close()
    reader.generation.push(delta("a"))
    assert reader.cancellations == 1
    # The task can never end: tell it not to complain when it is collected.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_cancelling_ends_reading_and_happens_once() -> None:
    reader = Reader()
    reader.generation.push(delta("a"))
    reader.generation.cancel()
    reader.generation.cancel()
    reader.generation.push(delta("b"))
    assert reader.generation.wait(1) == Delta("a", (1,), None, None)
    assert reader.cancellations == 1


def test_nothing_arrives_after_the_end() -> None:
    reader = Reader()
    reader.generation.push(delta("a", "stop"))
    reader.generation.push(delta("b"))
    reader.generation.fail(EngineFault("too late"))
    reader.generation.cancel()
    assert reader.generation.wait(1).text == "a"
    assert reader.generation.completion_tokens == 1
    assert not reader.cancellations


def test_a_thread_that_waits_too_long_is_told_and_cancels() -> None:
    reader = Reader()
    with pytest.raises(TimeoutError):
        reader.generation.wait(0.01)
    assert reader.cancellations == 1


def test_steps_are_accounted_together() -> None:
    reader = Reader()
    reader.generation.account(StepTally({NodeId("a"), NodeId("b")}, 2, 4, 1, 0, 5))
    reader.generation.account(StepTally({NodeId("b"), NodeId("c")}, 2, 4, 0, 3, 6))
    assert reader.generation.tally == StepTally({NodeId("a"), NodeId("b"), NodeId("c")}, 4, 8, 1, 3, 11)
    reader.generation.tally.nodes.clear()
    assert len(reader.generation.tally.nodes) == 3
