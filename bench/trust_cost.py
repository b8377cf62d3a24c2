"""What trust costs: the same network with everything on, without audits, and without audits and signatures, 16 streams at once.

Guarantees: all in one run, each way in processes of its own, in turns; of each way the median of the rounds counts. Everything else is
the same, and drafts are off so that all steps have as many rows. Audits are measured as they are from day to day, of nodes of
whose experts each has passed the first audits, and as they are when nodes are new and every result of theirs is to be audited. What
audits cost is measured once more within one network, in windows of time with and without them, which drifts of the machine cannot reach.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from .. import __version__
from ..cli.child import PROGRAM
from ..cli.local_network import COORDINATOR_FOLDER, LocalNetwork
from ..client import FolkmootClient
from ..coordinator.audit.passed_audits import PassedAudits
from ..coordinator.audit.preparing import AUDIT_FOLDER
from ..errors import FolkmootError
from ..ids import NodeId
from ..models.prepared import PreparedModel
from ..trust.audit_policy import FIRST_AUDITS, AuditSubject
from . import network_system, unsigned
from .audits_by_turns import PROGRAM as PROGRAM_BY_TURNS
from .audits_by_turns import WINDOW_S, audited_at
from .decoding import ready

STREAMS: Final = 16
NEW_TOKENS: Final = 96
LONG_TOKENS: Final = 384
_NO_DRAFTS: Final = {"FOLKMOOT_COORDINATOR_ENGINE__MAX_DRAFT_TOKENS": "0"}
_NO_AUDITS: Final = _NO_DRAFTS | {"FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false"}
_LONG_TRUSTED: Final = _NO_DRAFTS | {"FOLKMOOT_COORDINATOR_AUDIT__PROBATION_AUDITS": "1"}
EVERYTHING, SIGNATURES, NOTHING = "signatures and audits", "signatures alone", "neither"
NEW_NODES: Final = "the same, nodes are new"
WAYS: Final = {
    EVERYTHING: (_LONG_TRUSTED, PROGRAM),
    NEW_NODES: (_NO_DRAFTS, PROGRAM),
    SIGNATURES: (_NO_AUDITS, PROGRAM),
    NOTHING: (_NO_AUDITS, unsigned.PROGRAM),
}
"""What is on, and the environment and program that make it so."""


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Measures the ways in turns, on the model `moe-4l`, which is made in the folder.

    Args:
        folder: Where the model and the network's state are.
        rounds: How often each way is measured.

    Returns:
        The report: tokens per second by way, all rounds and their median, and medians as shares of that without trust.
    """
    _, prepared, state, prompts = ready(folder)
    passed = _passed(prepared, state)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, (environment, program) in WAYS.items():
            print(f"round {number + 1} of {rounds}: {way} ...", file=sys.stderr)
            _kept(prepared, state).save({} if way == NEW_NODES else passed)
            rows, _ = network_system.measure(
                prepared, state, prompts, (STREAMS,), NEW_TOKENS, way, environment, program
            )
            speeds[way].append(rows[0].decode_tokens_per_second)
    middle = {way: median(values) for way, values in speeds.items()}
    return {
        "streams": STREAMS,
        "decode_tokens_per_second": {
            way: {"median": middle[way], "rounds": values} for way, values in speeds.items()
        },
        "throughput_ratio": {way: middle[way] / middle[NOTHING] for way in WAYS},
        "audits_by_turns": _by_turns(prepared, state, prompts, passed),
    }


def _by_turns(
    prepared: Path, state: Path, prompts: Sequence[Sequence[int]], passed: Mapping[AuditSubject, int]
) -> dict[str, float]:
    """Seconds from token to token of a stream in windows with audits and without, and the ratio of speeds."""
    print("audits by turns ...", file=sys.stderr)
    _kept(prepared, state).save(passed)
    gaps: dict[bool, list[float]] = {True: [], False: []}

    def watch(arrivals: Sequence[Sequence[float]]) -> None:
        for times in arrivals:
            for before, after in itertools.pairwise(times):
                if int(before / WINDOW_S) == int(after / WINDOW_S):
                    gaps[audited_at(after)].append(after - before)

    network_system.measure(
        prepared,
        state,
        prompts,
        (STREAMS,),
        LONG_TOKENS,
        EVERYTHING,
        _LONG_TRUSTED,
        PROGRAM_BY_TURNS,
        watch=watch,
    )
    if not all(gaps.values()):
        raise FolkmootError(
            f"{LONG_TOKENS} tokens went by within one window of {WINDOW_S:.0f} s",
            advice="ask for more tokens",
        )
    with_audits, without = fmean(gaps[True]), fmean(gaps[False])
    return {"with_s": with_audits, "without_s": without, "throughput_ratio": without / with_audits}


def _passed(prepared: Path, state: Path) -> dict[AuditSubject, int]:
    """What the network's nodes have passed once each of their experts has had its first audits; the network runs for it, and gets warm."""
    with LocalNetwork(prepared, network_system.NODES, state) as network:
        network.open()
        with FolkmootClient(network.api_url) as client:
            nodes = [
                NodeId(node["id"]) for node in network.wait_until_covered(client, lambda _: None)["nodes"]
            ]
    experts = PreparedModel.open(prepared).manifest.experts
    return {
        AuditSubject(node, expert, __version__): FIRST_AUDITS
        for node, expert in itertools.product(nodes, experts)
    }


def _kept(prepared: Path, state: Path) -> PassedAudits:
    digest = PreparedModel.open(prepared).manifest.digest
    return PassedAudits(state / COORDINATOR_FOLDER / AUDIT_FOLDER, digest)


def show(report: dict[str, Any]) -> None:
    """Prints the report."""
    print(f"{'on':<26}{'tok/s, median':>14}{'of neither':>12}   rounds")
    for way, speed in report["decode_tokens_per_second"].items():
        rounds = " ".join(f"{value:.1f}" for value in speed["rounds"])
        print(f"{way:<26}{speed['median']:>14.1f}{report['throughput_ratio'][way]:>12.3f}   {rounds}")
    turns = report["audits_by_turns"]
    print(
        f"audits, by turns in one network: {turns['throughput_ratio']:.3f} "
        f"({1000 * turns['with_s']:.1f} and {1000 * turns['without_s']:.1f} ms from token to token)"
    )
