"""How fast the model `moe-4l` decodes: transformers in one process, the engine with local experts, and a network of two nodes.

Guarantees: systems are measured one after the other, each in processes of its own that end before the next begins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..cli.local_network import COORDINATOR_FOLDER
from . import moe_4l
from .alone import alone

STREAMS = (1, 16)
PROMPT_TOKENS, NEW_TOKENS = 64, 48
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


def measure(folder: Path) -> dict[str, Any]:
    """Measures the three systems on the model `moe-4l`, which is made in the folder, and returns the report."""
    from . import local_system, network_system, timing, transformers_system

    checkpoint, prepared, state, prompts = ready(folder)
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


def ready(folder: Path) -> tuple[Path, Path, Path, list[list[int]]]:
    """Makes the model once: its checkpoint, its prepared form, a network's state folder, and prompts for it."""
    print("moe-4l: making the checkpoint (once) ...", file=sys.stderr)
    checkpoint, state = moe_4l.make(folder / "moe-4l"), folder / "moe-4l-state"
    prepared = alone(_prepare, checkpoint, folder / "moe-4l-prepared", state / COORDINATOR_FOLDER)
    return checkpoint, prepared, state, alone(_prompts, max(STREAMS), moe_4l.VOCABULARY)


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
