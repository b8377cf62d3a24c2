"""Tasks that end before what comes next begins.

Guarantees: whoever awaits `in_thread` or `uninterrupted` goes on, however often it is cancelled, only after the work has ended,
so nothing keeps working on a file behind the back of what comes next; after `ended`, none of the tasks runs any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Calls the function in a thread of the event loop's pool."""
    return await uninterrupted(asyncio.to_thread(function, *arguments, **keywords))


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Awaits work that is done to its end even when the one who awaits it is cancelled; only then that one goes on."""
    task = asyncio.create_task(work)
    try:
        await _done(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            task.exception()  # the one that was cancelled is not told of it
        raise
    return task.result()


async def abandonable(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Calls a function that touches nothing of ours in a thread that neither cancelling nor leaving waits for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def deliver(error: BaseException | None, value: T | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast(T, value))

    def work() -> None:
        error, value = None, None
        try:
            value = function(*arguments, **keywords)
        except BaseException as fault:  # noqa: BLE001 - it is raised where the answer is awaited
            error = fault
        with contextlib.suppress(RuntimeError):  # the event loop may have been closed meanwhile
            loop.call_soon_threadsafe(deliver, error, value)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="folkmoot-abandonable", daemon=True).start()
    return await answer


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits for them; what they raise is not asked for any more."""
    for task in tasks:
        task.cancel()
    try:
        await _done(*tasks)
    finally:
        for task in tasks:
            if not task.cancelled():
                task.exception()


async def _done(*tasks: asyncio.Task[Any]) -> None:
    """Returns when all have ended; being cancelled meanwhile is answered only then, once."""
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
