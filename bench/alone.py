"""Measuring in a process of its own, so that nothing of one measurement is left for the next."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def alone(task: Callable[..., Result], *arguments: Any) -> Result:
    """Runs a function in a process of its own, with as many threads as the machine has cores."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(task, *arguments).result()
