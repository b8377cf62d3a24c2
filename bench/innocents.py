"""Honest rows of every kind, audited: nobody is convicted, and suspicions come as often as configured.

Guarantees: openings and outputs are those of this repository's kernels (native, and torch alone), in every format, layout and activation,
with the three types of activations in turn, from one row at a time to many, through one expert a row to eight with real gates, with one
thread and with two; thresholds come from the coordinator's own calibration of each model, on inputs of other seeds, and each opening is
judged by those of either kernels; every suspicion is recomputed as an auditor would, and so is one audit in nine besides, whose rows are
judged together for a bias. Rows that somebody made against honest nodes are counted for themselves.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from ..coordinator.audit.canonical_weights import CanonicalExperts
from ..coordinator.audit.settings import AuditSettings
from ..kernels.formats import DTYPES, Activation, ExpertSpec, Layout, WeightFormat
from ..trust.audit_statements import OpeningKind
from .adversaries.report import interval
from .honest_node import EXPERTS, HonestNode, calibrated
from .made_rows import ATTACKS
from .random_experts import FORMS, RandomExperts, possible

BATCHES: Final = (1, 1, 1, 1, 2, 4, 8, 32)
"""Rows of one audit; each is also what the kernels get at once."""
WIDTHS: Final = (1, 1, 2, 1, 4, 1, 8)
"""Experts that each row of an audit goes through."""
TWO_THREADS: Final = 17
"""One audit in so many is computed by two threads."""
KERNELS: Final = ("native", "torch")
HIDDEN, INTERMEDIATE = 512, 352
STAGES: Final = 2
FIRST_SEED: Final = 1 << 20
"""Calibration takes the seeds below."""


class Case(NamedTuple):
    """One model: how its experts are stored and computed, and the type of its activations."""

    number: int
    form: WeightFormat
    layout: Layout
    activation: Activation
    dtype: str

    @property
    def names(self) -> tuple[str, ...]:
        """What its rows count for."""
        return self.form.value, f"{self.layout.value}, {self.activation.value}", f"activations {self.dtype}"

    def source(self, seed: int) -> RandomExperts:
        """Its experts."""
        spec = ExpertSpec(HIDDEN, INTERMEDIATE, self.form.value, self.layout, self.activation)
        return RandomExperts(spec, self.dtype, EXPERTS, seed + self.number)


def cases() -> list[Case]:
    """Every format with every layout that can hold it, types in turn, and every format with every type."""
    found: list[Case] = []
    for form in WeightFormat:
        fitting = [one for one in FORMS if possible(form, one[0])]
        types = list(DTYPES)
        for turn in range(max(len(fitting), len(types))):
            layout, activation = fitting[turn % len(fitting)]
            found.append(Case(len(found), form, layout, activation, types[turn % len(types)]))
    return found


@dataclass
class Count:
    """What came of some audits."""

    rows: int = 0
    audits: int = 0
    suspicions: int = 0
    verdicts: int = 0

    def add(self, rows: int, suspected: bool, convicted: bool) -> None:
        """One more audit."""
        self.rows += rows
        self.audits += 1
        self.suspicions += suspected
        self.verdicts += convicted


@dataclass
class Innocents:
    """All audits, and those of each format, dtype and kind of opening.

    Attributes:
        kernels: Which answered.
        crossed: The same audits, judged by the thresholds of other kernels.
        weighed, biased: How many rows were judged for a bias, and how many verdicts came of it.
        made, unknown, framed: Made rows that were answered, of how many nothing can be said, and how many would convict.
    """

    kernels: str
    rate: float
    total: Count = field(default_factory=Count)
    crossed: Count = field(default_factory=Count)
    parts: dict[str, Count] = field(default_factory=dict)
    weighed: int = 0
    biased: int = 0
    made: int = 0
    unknown: int = 0
    framed: int = 0

    def add(self, names: tuple[str, ...], rows: int, suspected: bool, convicted: bool) -> None:
        """One more audit, which counts for each of the names."""
        for count in (self.total, *(self.parts.setdefault(name, Count()) for name in names)):
            count.add(rows, suspected, convicted)

    def document(self) -> dict[str, Any]:
        """The JSON."""
        return {
            "kernels": self.kernels,
            "configured_rate_a_stage": self.rate,
            "configured_rate_an_audit": STAGES * self.rate,
            **_counted(self.total),
            "by_thresholds_of_other_kernels": _counted(self.crossed),
            "bias": {"rows": self.weighed, "verdicts": self.biased},
            "made_rows": {"rows": self.made, "nothing_said": self.unknown, "verdicts": self.framed},
            "parts": {name: _counted(count) for name, count in sorted(self.parts.items())},
        }


def kernels_here() -> str:
    """The kernels that this process has."""
    from ..kernels.native_library import load

    return "torch" if load() is None else "native"


def calibrate_kernels(seed: int, folder: Path, secret: bytes) -> None:
    """Finds the thresholds of every model by the kernels that this process has."""
    for case in cases():
        print(f"{kernels_here()} thresholds: {', '.join(case.names)}", file=sys.stderr, flush=True)
        calibrated(CanonicalExperts(case.source(seed)), folder / str(case.number), secret, kernels_here())


def measure_kernels(rows: int, seed: int, folder: Path, secret: bytes) -> Innocents:
    """Audits of `rows` honest rows by the kernels that this process has.

    Args:
        rows: In all.
        seed: Of the models, as they were calibrated.
        folder: What other kernels have found there is used too.
        secret: Of the projections.
    """
    here, of_all = kernels_here(), cases()
    found = Innocents(here, AuditSettings().suspicion_rate)
    for place, case in enumerate(of_all):
        share = rows * (place + 1) // len(of_all) - rows * place // len(of_all)
        print(f"{here}: {', '.join(case.names)}", file=sys.stderr, flush=True)
        source, below = case.source(seed), folder / str(case.number)
        judges = [name for name in KERNELS if name == here or (below / name).is_dir()]
        experts = CanonicalExperts(source)
        thresholds = {name: calibrated(experts, below, secret, name) for name in judges}
        node = HonestNode(source, below, secret, thresholds)
        for attack in ATTACKS:
            made = node.made(attack)
            found.made += made.rows
            found.unknown += made.unknown
            found.framed += made.wrong
        for count, width, threads, kind, its_seed in _drawn(share, FIRST_SEED + 10_000 * case.number):
            with _threads(threads):
                audited = node.audit(count, width, kind, its_seed)
            convicted = audited.wrong or audited.biased
            also = (
                f"{kind.name.lower()} openings",
                f"{count} rows",
                f"{width} experts a row",
                f"{threads} threads",
            )
            found.add(case.names + also, count, audited.suspected[here], convicted)
            for name in judges:
                if name != here:
                    found.crossed.add(count, audited.suspected[name], convicted)
            found.weighed += audited.weighed
            found.biased += audited.biased
    return found


def _drawn(rows: int, seed: int) -> Iterator[tuple[int, int, int, OpeningKind, int]]:
    """Audits until so many rows have been seen: rows, experts a row, threads, kind, seed."""
    batches, widths, kinds = itertools.cycle(BATCHES), itertools.cycle(WIDTHS), itertools.cycle(OpeningKind)
    for width in widths:
        if not rows:
            return
        count, kind = min(next(batches), rows), next(kinds)
        if seed % 3 == 0:
            next(kinds)
        yield count, width, 2 if seed % TWO_THREADS == 0 else 1, kind, seed
        rows -= count
        seed += 1


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def show(reports: list[dict[str, Any]]) -> None:
    """Prints the rows of each report."""
    print(
        f"{'honest rows of':<46}{'rows':>8}{'audits':>8}{'suspected':>10}{'rate':>10}{'95 %':>22}{'verdicts':>9}"
    )
    for report in reports:
        crossed = report["by_thresholds_of_other_kernels"]
        for name, part in {
            "all": report,
            "all, other kernels' thresholds": crossed,
            **report["parts"],
        }.items():
            low, high = part["suspicion_rate_95"]
            print(
                f"{report['kernels'] + ': ' + name:<46}{part['rows']:>8}{part['audits']:>8}{part['suspicions']:>10}"
                f"{part['suspicion_rate']:>10.1e}{low:>12.1e} - {high:.1e}{part['verdicts']:>9}"
            )
        bias, made = report["bias"], report["made_rows"]
        print(
            f"{report['kernels'] + ': judged together for a bias':<46}{bias['rows']:>8}{bias['verdicts']:>59}"
        )
        print(
            f"{report['kernels'] + ': made rows':<46}{made['rows']:>8}{made['verdicts']:>59}"
            f"  (of {made['nothing_said']} nothing can be said)"
        )
    print(f"configured: {reports[0]['configured_rate_an_audit']:.1e} suspicions an audit at most, no verdict")


def _counted(count: Count) -> dict[str, Any]:
    return {
        "rows": count.rows,
        "audits": count.audits,
        "suspicions": count.suspicions,
        "suspicion_rate": count.suspicions / max(count.audits, 1),
        "suspicion_rate_95": interval(count.suspicions, max(count.audits, 1)),
        "verdicts": count.verdicts,
    }
