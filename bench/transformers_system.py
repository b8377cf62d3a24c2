"""Measures transformers' own `generate()` in one process: what the network is compared with.

Guarantees: the model is whole, in 16-bit, with all of the machine's threads, its experts computed as transformers
chooses by itself; a first short run warms everything up and is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .timing import Row, row_of


def measure(
    folder: Path, prompts: Sequence[Sequence[int]], stream_counts: Sequence[int], new_tokens: int
) -> list[Row]:
    """Greedy generation of `new_tokens` for the first n prompts together, for each n of `stream_counts`."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    class Clock(StoppingCriteria):  # type: ignore[misc]
        """Notes when each token has been chosen; stops nothing."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: Any) -> torch.Tensor:
            self.times.append(time.perf_counter())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    def run(count: int, tokens: int) -> Row:
        ids = torch.tensor([list(prompt) for prompt in prompts[:count]])
        clock = Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return row_of("transformers", started, [clock.times] * count)

    run(1, 4)
    return [run(count, new_tokens) for count in stream_counts]
