"""Runs a daemon of ours until it ends, somebody stops it, or the process that started it is gone.

Guarantees: Ctrl-C and SIGTERM cancel the daemon's coroutine, so that it ends in order; a second one cuts that short. The
exit code is 128 and the signal's number.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Coroutine

import typer

PARENT_VARIABLE = "FOLKMOOT_PARENT_PID"
"""Set by a process that wants its children to end with it, whatever it dies of."""
PARENT_INTERVAL_S = 0.5
ENDING_TIMEOUT_S = 10.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_until_stopped(daemon: Coroutine[object, object, object]) -> None:
    """Runs the coroutine to its end.

    Raises:
        typer.Exit: when a signal stopped it.
        FolkmootError: what the daemon ended with.
    """
    received: list[signal.Signals] = []

    async def supervise() -> None:
        task = asyncio.ensure_future(daemon)
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            received.append(number)
            task.cancel()

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not received:
                raise

    asyncio.run(supervise())
    if received:
        raise typer.Exit(128 + received[0])


def end_with_parent() -> None:
    """Starts watching the parent if it asked for that; called before the first slow import."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and parent.isdecimal():
        threading.Thread(target=_watch, args=(int(parent),), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ENDING_TIMEOUT_S)
    os._exit(128 + signal.SIGTERM)
