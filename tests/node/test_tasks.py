"""Work ends before what comes next begins, however often the one who waits for it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from folkmoot.logs import working_for
from folkmoot.node.tasks import abandonable, ended, in_thread, uninterrupted


async def cancelled_thrice(waiting: asyncio.Task[Any]) -> None:
    for _ in range(3):
        waiting.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()


async def test_a_thread_is_waited_for_however_often_one_is_cancelled() -> None:
    begun, go_on, said = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go_on.wait(60)
        said.append("worked")

    async def waits() -> None:
        try:
            await in_thread(work)
        finally:
            said.append("went on")

    waiting = asyncio.create_task(waits())
    await asyncio.to_thread(begun.wait, 60)
    await cancelled_thrice(waiting)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert said == ["worked", "went on"]
    assert waiting.cancelled()


async def test_tasks_have_ended_also_for_one_that_is_cancelled_meanwhile() -> None:
    go_on = asyncio.Event()

    async def lingers() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await uninterrupted(_returned(go_on.wait()))

    task = asyncio.create_task(lingers())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(ended(task))
    await asyncio.sleep(0)
    await cancelled_thrice(waiting)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.done()


@pytest.mark.parametrize("call", [in_thread, abandonable])
async def test_a_thread_knows_whom_it_works_for(call: Callable[..., Awaitable[str]]) -> None:
    working_for.set("london")
    assert await call(working_for.get) == "london"


async def test_what_work_brings_or_raises_is_brought_or_raised() -> None:
    assert await in_thread(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def _returned(work: Coroutine[Any, Any, bool]) -> None:
    await work
