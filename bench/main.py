"""`folkmoot-bench`: what this machine reaches, as ratios within one run.

Guarantees: systems are measured one after the other, each in a process of its own that ends before the next begins; the
numbers are written to `build/bench` below the current folder, together with the memory bandwidth of the same run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from .alone import alone

BUILD = Path("build")
FOLDER = BUILD / "bench"


def measure_kernels(quick: bool) -> dict[str, Any]:
    """Measures the expert kernels and returns the report."""
    from . import kernels

    return kernels.measure(quick)


def show_kernels(report: dict[str, Any]) -> None:
    """Prints the report's rows."""
    from . import kernels

    kernels.show(report)


def measure_adversaries(runs: int | None, quick: bool, seed: int | None) -> list[dict[str, Any]]:
    """Measures every adversary, prints the table, and returns the report. Without a seed there is a new one."""
    import dataclasses

    import torch

    from .adversaries import harness, report

    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    extent = harness.QUICK if quick else harness.Extent()
    if runs is not None:
        extent = dataclasses.replace(extent, runs=runs)
    seed = harness.new_seed() if seed is None else seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    measured = harness.measure((BUILD / "adversaries").absolute(), extent, seed)
    print(report.table(measured))
    return [one.document() for one in measured]


def calibrate_innocents(seed: int, folder: Path, secret: bytes) -> None:
    """Finds the thresholds of the kernels that this process's environment chooses."""
    import torch

    from . import innocents

    torch.set_num_threads(1)
    innocents.calibrate_kernels(seed, folder, secret)


def measure_innocents(rows: int, seed: int, folder: Path, secret: bytes) -> dict[str, Any]:
    """Audits honest rows by the kernels that this process's environment chooses."""
    import torch

    from . import innocents

    torch.set_num_threads(1)
    return innocents.measure_kernels(rows, seed, folder, secret).document()


def all_innocents(rows: int) -> list[dict[str, Any]]:
    """Half of the rows by the native kernels, half by torch's alone; prints the table and returns the reports."""
    from . import innocents

    reports, secret = [], secrets.token_bytes(32)
    with tempfile.TemporaryDirectory(prefix="folkmoot-innocents-") as scratch:
        for task in (calibrate_innocents, measure_innocents):
            for number, kernels in enumerate(innocents.KERNELS):
                os.environ["FOLKMOOT_KERNELS"] = kernels
                share = () if task is calibrate_innocents else ((rows + 1 - number) // 2,)
                report = alone(task, *share, 0, Path(scratch), secret)
                if report is not None:
                    reports.append(report)
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
    """The command: `folkmoot-bench moe-4l`, `kernels`, `signing`, `placement`, `trust-cost`, `scaling`, `adversaries` or `innocents`."""
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
    adversaries.add_argument(
        "--seed", type=_seed, help="what is drawn follows from it; new each time without"
    )
    trusted = commands.add_parser("trust-cost", help="what signatures and audits cost a busy network")
    trusted.add_argument("--rounds", type=_count, default=4, help="how often all streams ask of each network")
    commands.add_parser("scaling", help="how throughput grows with slow nodes: 2, 4, 8")
    innocents = commands.add_parser("innocents", help="whether honest nodes are ever accused")
    innocents.add_argument("--rows", type=_count, default=100_000, help="honest rows to audit")
    arguments = parser.parse_args()
    name = arguments.benchmark
    logging.basicConfig(level=logging.WARNING)
    os.environ["FOLKMOOT_HOME"] = str(FOLDER.absolute() / "home")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if name == "adversaries":
        _write(
            BUILD / "adversaries.json",
            alone(measure_adversaries, arguments.runs, arguments.quick, arguments.seed),
        )
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
    if name == "trust-cost":
        from . import trust_cost

        report = trust_cost.measure(FOLDER.absolute(), arguments.rounds)
        trust_cost.show(report)
        _write(FOLDER / "trust-cost.json", report)
        return
    if name == "scaling":
        from . import scaling

        report = scaling.measure(FOLDER.absolute())
        scaling.show(report)
        _write(FOLDER / "scaling.json", report)
        return
    if name == "kernels":
        report = alone(measure_kernels, arguments.quick)
        show_kernels(report)
    else:
        from . import decoding

        report = decoding.measure(FOLDER.absolute())
        decoding.show(report)
    _write(FOLDER / f"{name}.json", report)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return count


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 1 << 31:
        raise argparse.ArgumentTypeError("give 0 or more, and less than 2^31")
    return seed


def _write(path: Path, report: Any) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
