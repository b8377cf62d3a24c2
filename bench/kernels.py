"""How fast experts are computed, as fractions of what memory gives and as ratios to torch, all within one run.

Guarantees: every number is a lower quartile over calls that cycle through a working set far larger than the caches, reading
bandwidth included, which is measured again for each shape and format with the same threads over the same memory; times are
of one expert out of a call of several. Errors are the largest of a row, relative, against float64.

Letters: R rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..kernels import native_library
from ..kernels.formats import WeightFormat
from ..kernels.weight_memory import weight_memory
from .kernel_systems import Call, Run, WorkingSet, in_float64, make_spec, our_systems, torch_systems

SHAPES: dict[str, tuple[int, int]] = {
    "olmoe": (2048, 1024),
    "deepseek-v2-lite": (2048, 1408),
    "qwen3-30b-a3b": (2048, 768),
    "deepseek-v3": (7168, 2048),
}
"""Name to (H, I)."""
ROWS = (1, 2, 4, 8, 16, 64, 256)
THREADS = (1, 2)
WORKING_SET_BYTES = 1 << 30
CELL_S = 0.08
"""How long one way is measured at one count of rows and threads."""
CHECKED_ROWS = 4
FEW_ROWS, MOST_EXPERTS = 8, 8
"""Up to so many rows a call has so many experts, as a token has; with more rows, or where torch has to dequantize, one."""
Row = dict[str, Any]


def lower_quartile(values: Iterable[float]) -> float:
    """What a quarter of the values are below."""
    return float(np.quantile(np.fromiter(values, float), 0.25))


def measured(call: Callable[[int], object], at_least_s: float) -> list[float]:
    """Seconds of each call until they are as long as asked for; the first is left out if there is a second."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds[1:]) < at_least_s:
        start = time.perf_counter()
        call(len(seconds))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1 and seconds[0] > 2 * at_least_s:
            return seconds
    return seconds[1:]


def read_seconds_per_byte(
    memory: np.ndarray[Any, np.dtype[np.uint8]], threads: int, seconds: float
) -> list[float]:
    """What reading costs, piece after piece: the library's own loop, or torch's sum where there is no library."""
    library = native_library.load()
    piece = min(memory.size // 4, 1 << 26) // 4096 * 4096
    words = torch.frombuffer(memory, dtype=torch.int64, count=memory.size // 8)

    def read(call: int) -> None:
        start = call * piece % (memory.size - piece + 1)
        if library is None:
            words[start // 8 : (start + piece) // 8].sum()
        else:
            library.folkmoot_read(memory.ctypes.data + start, piece, threads)

    return [value / piece for value in measured(read, seconds)]


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """The largest of a row."""
    return float(((got.double() - want).norm(dim=1) / want.norm(dim=1)).max())


def measure(quick: bool = False) -> dict[str, Any]:
    """Measures everything; `quick` is a small part of it that shows that it works, with numbers that mean nothing."""
    shapes = {"tiny": (128, 64)} if quick else SHAPES
    counts = (1, 4, 16) if quick else ROWS
    size, cell_s = (1 << 22, 0.001) if quick else (WORKING_SET_BYTES, CELL_S)
    memory = np.frombuffer(weight_memory(size), np.uint8)  # as a node has them
    reads: dict[int, list[float]] = {threads: [] for threads in THREADS}
    rows: list[Row] = []
    for name, shape in shapes.items():
        for form in WeightFormat:
            print(f"kernels: {name} in {form} ...", file=sys.stderr)
            spec = make_spec(shape, form)
            work = WorkingSet.fill(spec, memory, packed=True)
            for threads in THREADS:
                torch.set_num_threads(threads)
                reads[threads] += read_seconds_per_byte(memory, threads, cell_s)
            native = native_library.load() is not None
            rows += _measure_form(name, work, our_systems(native), counts, cell_s)
            # The same memory: how fast it can be read depends on where it lies.
            work = WorkingSet.fill(spec, memory, packed=False)
            rows += _measure_form(name, work, torch_systems(work), counts, cell_s)
    return _report(rows, {threads: lower_quartile(values) for threads, values in reads.items()})


def _measure_form(
    name: str, work: WorkingSet, systems: Mapping[str, Run], counts: Iterable[int], cell_s: float
) -> list[Row]:
    spec, found = work.spec, []
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(max(counts), spec.hidden, generator=generator).to(torch.bfloat16)  # [R, H]
    want = in_float64(spec, work.experts[0], inputs[:CHECKED_ROWS])
    for backend, run in systems.items():
        for threads in THREADS:
            torch.set_num_threads(threads)
            for count in counts:
                few = count <= FEW_ROWS and backend != "torch"
                gates = torch.ones(count)
                calls = _Calls(run, work.calls(MOST_EXPERTS if few else 1, inputs[:count], gates))
                seconds = lower_quartile(measured(calls, cell_s)) / calls.experts
                error = relative_error(calls.answer[:CHECKED_ROWS] / calls.experts, want[:count])
                found.append(
                    {
                        "shape": name,
                        "format": str(spec.format),
                        "backend": backend,
                        "rows": count,
                        "threads": threads,
                        "us": seconds * 1e6,
                        "gb_per_s": spec.expert_bytes / seconds / 1e9,
                        "gflop_per_s": 6 * spec.hidden * spec.intermediate * count / seconds / 1e9,
                        "relative_error": error,
                    }
                )
    return found


class _Calls:
    """Calls of one way that take turns through the working set; keeps the last answer, which is each one's."""

    def __init__(self, run: Run, calls: Sequence[Call]) -> None:
        self.run, self.calls, self.experts = run, calls, len(calls[0].experts)
        self.answer = calls[0].rows

    def __call__(self, number: int) -> None:
        self.answer = self.run(self.calls[number % len(self.calls)])


def _report(rows: list[Row], seconds_per_byte: dict[int, float]) -> dict[str, Any]:
    """Adds what follows from several rows: fractions of the bandwidth, and how many times as fast as torch's plain ways."""
    places = ("shape", "rows", "threads")
    plain = {
        (row["backend"], row["format"], *(row[place] for place in places)): row["us"]
        for row in rows
        if row["backend"] in ("linear", "grouped_mm")
    }
    bandwidth = {threads: 1 / seconds / 1e9 for threads, seconds in seconds_per_byte.items()}
    for row in rows:
        here = tuple(row[place] for place in places)
        row["fraction_of_bandwidth"] = row["gb_per_s"] / bandwidth[row["threads"]]
        # Quantized weights are compared with what torch does with the same model in 16 bits.
        linear = plain.get(("linear", row["format"], *here), plain["linear", "bfloat16", *here])
        row["ratio_to_linear"] = linear / row["us"]
        row["ratio_to_grouped_mm"] = plain["grouped_mm", "bfloat16", *here] / row["us"]
    return {
        "computes": native_library.describe(),
        "read_gb_per_s": {str(threads): value for threads, value in bandwidth.items()},
        "rows": rows,
    }


def show(report: dict[str, Any]) -> None:
    """Prints one line for each measurement."""
    print(f"{report['computes']}; memory reads at", end=" ")
    print(", ".join(f"{value:.1f} GB/s ({n} threads)" for n, value in report["read_gb_per_s"].items()))
    print(
        f"{'shape':<17}{'format':<13}{'backend':<11}{'threads':>7}{'rows':>5}{'us':>10}{'GB/s':>7}{'of read':>8}"
        f"{'GFLOP/s':>9}{'/linear':>8}{'/grouped':>9}{'error':>9}"
    )
    for row in report["rows"]:
        print(
            f"{row['shape']:<17}{row['format']:<13}{row['backend']:<11}{row['threads']:>7}{row['rows']:>5}"
            f"{row['us']:>10.0f}{row['gb_per_s']:>7.1f}{row['fraction_of_bandwidth']:>8.2f}{row['gflop_per_s']:>9.0f}"
            f"{row['ratio_to_linear']:>8.2f}{row['ratio_to_grouped_mm']:>9.2f}{row['relative_error']:>9.1e}"
        )
