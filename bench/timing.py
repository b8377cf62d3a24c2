"""What one measurement is, and the memory bandwidth that bounds it.

Guarantees: decode speed counts the tokens that come after every stream has its first, over the time from then to the
last token of all, so prefill is not in it; time to first token is the mean over the streams.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        system: "transformers", "local" or "network".
        streams: Sequences decoded at once.
        decode_tokens_per_second: Of all streams together.
        time_to_first_token_s: From sending a prompt to its first token, mean over the streams.
    """

    system: str
    streams: int
    decode_tokens_per_second: float
    time_to_first_token_s: float

    def as_json(self) -> dict[str, object]:
        """The row as the report's file has it."""
        return asdict(self)


def row_of(system: str, started: float, arrivals: Sequence[Sequence[float]]) -> Row:
    """Makes a row from when the tokens of each stream arrived; all times from one monotonic clock, in seconds."""
    begin = max(times[0] for times in arrivals)
    end = max(times[-1] for times in arrivals)
    tokens = sum(sum(moment > begin for moment in times) for times in arrivals)
    waits = [times[0] - started for times in arrivals]
    return Row(system, len(arrivals), tokens / (end - begin), sum(waits) / len(waits))


def read_bandwidth_bytes_per_second(threads: int = 2, size: int = 1 << 30) -> float:
    """How fast this machine reads memory now: the best of five passes over a buffer far larger than the caches."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        buffer = torch.ones(size // 8, dtype=torch.int64)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            buffer.sum()
            best = min(best, time.perf_counter() - start)
        return size / best
    finally:
        torch.set_num_threads(before)
