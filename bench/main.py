"""`folkmoot-bench`: what this machine reaches, as ratios within one run.

Guarantees: systems are measured one after the other, each in a process of its own that ends before the next begins; the
numbers are written to `build/bench` below the current folder, together with the memory bandwidth of the same run.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ..cli.local_network import COORDINATOR_FOLDER

STREAMS = (1, 16)
PROMPT_TOKENS, NEW_TOKENS = 64, 48
BUILD = Path("build")
FOLDER = BUILD / "bench"
NO_DRAFTS, TORCH_KERNELS = "no drafts, no audits", "torch kernels, no audits"
COMPARED = {
    "network, no audits": {"FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false"},
    NO_DRAFTS: {
        "FOLKMOOT_COORDINATOR_ENGINE__MAX_DRAFT_TOKENS": "0",
        "FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false",
    },
    TORCH_KERNELS: {
        "FOLKMOOT_COORDINATOR_ENGINE__MAX_DRAFT_TOKENS": "0",
        "FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false",
        "FOLKMOOT_KERNELS": "torch",
    },
}
"""The same network without what makes it fast: name, and environment of its processes."""
Result = TypeVar("Result")


def alone(task: Callable[..., Result], *arguments: Any) -> Result:
    """Runs a function in a process of its own, with as many threads as the machine has cores."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(task, *arguments).result()


def moe_4l() -> dict[str, Any]:
    """Measures the three systems on the model `moe-4l` and returns the report."""
    from . import local_system, moe_4l, network_system, timing, transformers_system

    folder = FOLDER.absolute()
    print("moe-4l: making the checkpoint (once) ...", file=sys.stderr)
    checkpoint = moe_4l.make(folder / "moe-4l")
    state = folder / "moe-4l-state"
    prepared = alone(_prepare, checkpoint, folder / "moe-4l-prepared", state / COORDINATOR_FOLDER)
    prompts = alone(_prompts, max(STREAMS), moe_4l.VOCABULARY)
    print("moe-4l: transformers in one process ...", file=sys.stderr)
    rows = alone(transformers_system.measure, checkpoint, prompts, STREAMS, NEW_TOKENS)
    print("moe-4l: the engine with local experts ...", file=sys.stderr)
    rows += alone(local_system.measure, prepared, prompts, STREAMS, NEW_TOKENS)
    print("moe-4l: a network of two nodes ...", file=sys.stderr)
    network, counters = network_system.measure(prepared, state, prompts, STREAMS, NEW_TOKENS)
    comparisons = []
    for system, environment in COMPARED.items():
        print(f"moe-4l: {system} ...", file=sys.stderr)
        comparisons += network_system.measure(
            prepared, state, prompts, STREAMS, NEW_TOKENS, system, environment
        )[0]
    bandwidth = alone(timing.read_bandwidth_bytes_per_second)
    return {
        "rows": [row.as_json() for row in rows + network],
        "comparisons": [row.as_json() for row in comparisons],
        "memory_limit_tokens_per_second": bandwidth / moe_4l.ACTIVE_BYTES,
        "memory_bytes_per_second": bandwidth,
        "network_counters": counters,
    }


def show(report: dict[str, Any]) -> None:
    """Prints the rows and the ratios that matter."""
    rows = report["rows"] + report["comparisons"]
    speed = {(row["system"], row["streams"]): row["decode_tokens_per_second"] for row in rows}
    print(f"{'system':<24}{'streams':>8}{'decode tok/s':>14}{'first token s':>15}")
    for row in rows:
        print(
            f"{row['system']:<24}{row['streams']:>8}{row['decode_tokens_per_second']:>14.1f}"
            f"{row['time_to_first_token_s']:>15.2f}"
        )
    many = max(STREAMS)
    print(f"memory limit, 1 stream: {report['memory_limit_tokens_per_second']:.1f} tok/s")
    print(f"network / transformers, 1 stream:   {speed['network', 1] / speed['transformers', 1]:.2f} x")
    print(f"network / local, 1 stream:          {speed['network', 1] / speed['local', 1]:.2f} x")
    print(f"network, {many} streams / 1 stream:     {speed['network', many] / speed['network', 1]:.2f} x")
    print(
        f"network / transformers, {many} streams: {speed['network', many] / speed['transformers', many]:.2f} x"
    )
    for count in STREAMS:
        gain = speed[NO_DRAFTS, count] / speed[TORCH_KERNELS, count]
        print(f"native / torch kernels, no drafts, {count:>2} streams: {gain:.2f} x")


def _prepare(checkpoint: Path, out: Path, state: Path) -> Path:
    from ..cli.model import prepare_signed
    from ..coordinator.audit.preparing import prepare_audits
    from ..coordinator.audit.settings import AuditSettings
    from ..models.prepared import PreparedModel
    from ..models.progress import Silent

    if not (out / "manifest.json").is_file():
        prepare_signed(str(checkpoint), out=out, state=state)
    prepare_audits(PreparedModel.open(out), state, AuditSettings(), Silent())
    return out


def _prompts(count: int, vocabulary: int) -> list[list[int]]:
    import torch

    generator = torch.Generator().manual_seed(1)
    prompts: list[list[int]] = torch.randint(
        2, vocabulary, (count, PROMPT_TOKENS), generator=generator
    ).tolist()
    return prompts


def measure_kernels(quick: bool) -> dict[str, Any]:
    """Measures the expert kernels and returns the report."""
    from . import kernels

    return kernels.measure(quick)


def show_kernels(report: dict[str, Any]) -> None:
    """Prints the report's rows."""
    from . import kernels

    kernels.show(report)


def measure_adversaries(runs: int | None, quick: bool) -> list[dict[str, Any]]:
    """Measures every adversary, prints the table, and returns the report."""
    import dataclasses

    import torch

    from .adversaries import harness, report

    torch.set_num_threads(1)
    extent = harness.QUICK if quick else harness.Extent()
    if runs is not None:
        extent = dataclasses.replace(extent, runs=runs)
    measured = harness.measure((BUILD / "adversaries").absolute(), extent)
    print(report.table(measured))
    return [one.document() for one in measured]


def measure_innocents(rows: int, seed: int) -> dict[str, Any]:
    """Audits honest rows by the kernels that this process's environment chooses."""
    import torch

    from . import innocents

    torch.set_num_threads(1)
    return innocents.measure_kernels(rows, seed).document()


def all_innocents(rows: int) -> list[dict[str, Any]]:
    """Half of the rows by the native kernels, half by torch's alone; prints the table and returns the reports."""
    from . import innocents

    reports = []
    for seed, kernels in enumerate(("native", "torch")):
        os.environ["FOLKMOOT_KERNELS"] = kernels
        reports.append(alone(measure_innocents, (rows + 1 - seed) // 2, 1000 * seed))
    innocents.show(reports)
    return reports


def measure_signing(quick: bool) -> list[dict[str, Any]]:
    """Measures what signing costs and returns the report."""
    from . import signing

    return signing.measure(quick)


def measure_placement(quick: bool) -> dict[str, Any]:
    """Measures placement, prints what came of it, and returns the report."""
    from . import placement

    report = placement.measure(placement.QUICK if quick else placement.Extent())
    placement.show(report)
    return vars(report)


def main() -> None:
    """The command: `folkmoot-bench moe-4l`, `kernels`, `signing`, `placement`, `adversaries` or `innocents`."""
    parser = argparse.ArgumentParser(prog="folkmoot-bench", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    commands.add_parser("moe-4l", help="transformers, local experts and a network of two nodes")
    kernels = commands.add_parser("kernels", help="the expert kernels")
    adversaries = commands.add_parser("adversaries", help="how soon each kind of cheating node is caught")
    signed = commands.add_parser("signing", help="what it costs to sign results, each or together")
    placed = commands.add_parser("placement", help="who holds what, at the size of DeepSeek-V3")
    for command in (kernels, adversaries, signed, placed):
        command.add_argument("--quick", action="store_true", help="only show that it works")
    adversaries.add_argument("--runs", type=_count, help="runs of each adversary without a wire")
    innocents = commands.add_parser("innocents", help="whether honest nodes are ever accused")
    innocents.add_argument("--rows", type=_count, default=100_000, help="honest rows to audit")
    arguments = parser.parse_args()
    name = arguments.benchmark
    logging.basicConfig(level=logging.ERROR if name == "adversaries" else logging.WARNING)
    os.environ["FOLKMOOT_HOME"] = str(FOLDER.absolute() / "home")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if name == "adversaries":
        _write(BUILD / "adversaries.json", alone(measure_adversaries, arguments.runs, arguments.quick))
        return
    if name == "innocents":
        _write(BUILD / "innocents.json", all_innocents(arguments.rows))
        return
    if name == "signing":
        from . import signing

        rows = alone(measure_signing, arguments.quick)
        signing.show(rows)
        _write(FOLDER / "signing.json", rows)
        return
    if name == "placement":
        _write(FOLDER / "placement.json", alone(measure_placement, arguments.quick))
        return
    report = alone(measure_kernels, arguments.quick) if name == "kernels" else moe_4l()
    show_kernels(report) if name == "kernels" else show(report)
    _write(FOLDER / f"{name}.json", report)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return count


def _write(path: Path, report: Any) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
