"""Measures the engine with its experts in the same process: what dispatch, signatures and the wire are compared with.

Guarantees: the same engine, trunk and sampling as a coordinator has; all prompts are submitted before any is stepped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .timing import Row, row_of


def measure(
    prepared: Path, prompts: Sequence[Sequence[int]], stream_counts: Sequence[int], new_tokens: int
) -> list[Row]:
    """Greedy generation of `new_tokens` for the first n prompts at once, for each n of `stream_counts`."""
    import torch

    from ..coordinator.engine.engine import Engine
    from ..coordinator.engine.generation import Generation
    from ..coordinator.engine.requests import SamplingParams
    from ..coordinator.engine.settings import EngineSettings
    from ..kernels.threads import set_native_threads
    from ..models.local import LocalExperts
    from ..models.prepared import PreparedModel
    from ..models.trunk import Trunk

    model = PreparedModel.open(prepared)
    threads = torch.get_num_threads()
    set_native_threads(threads)
    trunk = Trunk.load(model, threads=threads)
    engine = Engine(trunk, LocalExperts(model), model.tokenizer(), EngineSettings(), lambda: True)
    engine.start()

    def arrivals(generation: Generation) -> list[float]:
        times: list[float] = []
        for delta in generation.stream():
            times += [time.perf_counter()] * len(delta.token_ids)
        return times

    def run(count: int, tokens: int) -> Row:
        sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        with ThreadPoolExecutor(count) as readers:
            started = time.perf_counter()
            generations = [engine.submit(prompt, sampling) for prompt in prompts[:count]]
            return row_of("local", started, list(readers.map(arrivals, generations)))

    try:
        run(1, 4)
        run(max(stream_counts), 2)
        return [run(count, new_tokens) for count in stream_counts]
    finally:
        engine.close()
