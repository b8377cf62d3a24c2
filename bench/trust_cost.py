"""What trust costs: a network with everything on, without audits, and without audits and signatures, 16 streams at once.

Guarantees: all in one network at a time, whose processes change with the clock, in windows of some seconds which drifts of the machine
cannot tell apart (`trust_by_turns.py`); drafts are off so that all steps have as many rows. A gap between two tokens of a stream counts
only in a window that both are in, while all streams decode. Each round of windows says how fast one way was beside another; their median
counts, for now and then the whole machine stands still for a second, and its standard error is told. Audits are measured as they are from day to day, of nodes of whose experts each has passed the first
audits, and as they are when nodes are new and every result of theirs is to be audited.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import pi, sqrt
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from .. import __version__
from ..cli.local_network import COORDINATOR_FOLDER, LocalNetwork
from ..client import FolkmootClient
from ..coordinator.audit.passed_audits import PassedAudits
from ..coordinator.audit.preparing import AUDIT_FOLDER
from ..coordinator.audit.private_counts import COUNTS_FILE
from ..errors import FolkmootError
from ..ids import NodeId
from ..models.prepared import PreparedModel
from ..trust.audit_policy import FIRST_AUDITS, AuditSubject
from . import network_system
from .decoding import ready
from .trust_by_turns import PROGRAM, WINDOW_S, Trust, trust_at

STREAMS: Final = 16
NEW_TOKENS: Final = 512
SETTLING_S: Final = 0.3
"""Of the beginning of each window nothing counts."""
FEWEST_ROUNDS: Final = 2
DEVIATION: Final = 1.4826
"""Standard deviations of a normal distribution in the median of its absolute deviations."""
ERROR_OF_MEDIAN: Final = sqrt(pi / 2)
"""Times the mean's standard error that of a median, of the same."""
_NO_DRAFTS: Final = {"FOLKMOOT_COORDINATOR_ENGINE__MAX_DRAFT_TOKENS": "0"}
_LONG_TRUSTED: Final = _NO_DRAFTS | {"FOLKMOOT_COORDINATOR_AUDIT__PROBATION_AUDITS": "1"}
TRUSTED, NEW = "nodes of long standing", "new nodes"
PARTS: Final = {
    "everything / neither": (Trust.EVERYTHING, Trust.NOTHING),
    "signatures / neither": (Trust.SIGNATURES, Trust.NOTHING),
    "everything / signatures": (Trust.EVERYTHING, Trust.SIGNATURES),
}
"""Whose throughput is set against whose."""


class Windows:
    """How long streams took from token to token in each window of time."""

    def __init__(self) -> None:
        self._gaps: dict[int, list[float]] = defaultdict(list)

    def watch(self, arrivals: Sequence[Sequence[float]]) -> None:
        """Takes when the tokens of each stream came."""
        began_s, ended_s = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
        for times in arrivals:
            for before, after in itertools.pairwise(times):
                if began_s <= before and after <= ended_s and before % WINDOW_S >= SETTLING_S:
                    window = int(before // WINDOW_S)
                    if window == int(after // WINDOW_S):
                        self._gaps[window].append(after - before)

    def report(self) -> dict[str, Any]:
        """Milliseconds from token to token of each way, and the parts with their standard errors.

        Raises:
            FolkmootError: when there were too few windows to tell.
        """
        rounds: dict[int, dict[Trust, float]] = defaultdict(dict)
        fullest = max(map(len, self._gaps.values()), default=0)
        for window, gaps in self._gaps.items():
            if len(gaps) < fullest / 2:  # it began or ended with the streams
                continue
            rounds[window // len(Trust)][trust_at((window + 0.5) * WINDOW_S)] = fmean(gaps)
        whole = [taken for taken in rounds.values() if len(taken) == len(Trust)]
        if len(whole) < FEWEST_ROUNDS:
            raise FolkmootError(
                f"the streams were over after {len(whole)} rounds of {len(Trust)} windows of {WINDOW_S:.1f} s",
                advice="measure for longer: --rounds",
            )
        parts = {}
        for part, (way, other) in PARTS.items():
            ratios = [taken[other] / taken[way] for taken in whole]
            middle = median(ratios)
            spread = DEVIATION * median(abs(ratio - middle) for ratio in ratios)
            parts[part] = {
                "throughput_ratio": middle,
                "standard_error": ERROR_OF_MEDIAN * spread / sqrt(len(ratios)),
            }
        return {
            "rounds": len(whole),
            "token_to_token_ms": {way.value: 1000 * fmean(taken[way] for taken in whole) for way in Trust},
            "parts": parts,
        }


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Measures both kinds of nodes on the model `moe-4l`, which is made in the folder.

    Args:
        folder: Where the model and the network's state are.
        rounds: How often all streams ask of each network, for `NEW_TOKENS` tokens each.
    """
    _, prepared, state, prompts = ready(folder)
    passed = _passed(prepared, state)
    report: dict[str, Any] = {"streams": STREAMS}
    for nodes, records, environment in ((TRUSTED, passed, _LONG_TRUSTED), (NEW, {}, _NO_DRAFTS)):
        print(f"{nodes}: windows of {WINDOW_S:.1f} s ...", file=sys.stderr)
        _kept(prepared, state).save(records)
        report[nodes] = _by_turns(prepared, state, prompts, rounds, environment)
    return report


def _by_turns(
    prepared: Path, state: Path, prompts: Sequence[Sequence[int]], rounds: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    windows = Windows()
    network_system.measure(
        prepared,
        state,
        prompts,
        (STREAMS,) * rounds,
        NEW_TOKENS,
        environment=environment,
        program=PROGRAM,
        watch=windows.watch,
    )
    return windows.report() | _audited(state)


def _audited(state: Path) -> dict[str, Any]:
    """How many results the coordinator that has just ended looked at while audits were on, and how many it asked about."""
    counts = (state / COORDINATOR_FOLDER / COUNTS_FILE).read_text()
    samples = {
        sample.name: int(sample.value)
        for family in text_string_to_metric_families(counts)
        for sample in family.samples
    }
    return {
        "results": samples["folkmoot_audit_results_total"],
        "audited": samples["folkmoot_audit_challenges_total"],
    }


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
    for nodes in (TRUSTED, NEW):
        measured = report[nodes]
        times = ", ".join(f"{way} {ms:.1f} ms" for way, ms in measured["token_to_token_ms"].items())
        print(f"{nodes}, {measured['rounds']} rounds; from token to token: {times}")
        print(f"  {measured['audited']} of {measured['results']} results were audited")
        for part, ratio in measured["parts"].items():
            print(f"  {part:<26}{ratio['throughput_ratio']:>8.3f} +- {ratio['standard_error']:.3f}")
