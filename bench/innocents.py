"""Honest rows of every kind, audited: nobody is convicted, and suspicions come as often as configured.

Guarantees: openings and outputs are those of this repository's kernels (native, and torch alone), in every format, layout and
activation, from one row at a time to many, with one thread and with two, for activations in bfloat16 and float32; thresholds come from the
coordinator's own calibration of each model, on inputs of other seeds; every suspicion is recomputed as an auditor would.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ..coordinator.audit.canonical_weights import CanonicalExperts
from ..coordinator.audit.honest_openings import heavy_rows
from ..coordinator.audit.settings import AuditSettings
from ..coordinator.audit.sketch_book import SketchBook
from ..coordinator.audit.threshold_store import ThresholdStore
from ..ids import ExpertKey
from ..kernels.expert import Expert
from ..kernels.feed_forward import Group, feed_forward
from ..kernels.formats import DTYPES, ExpertSpec, WeightFormat
from ..kernels.opening import open_expert, stands_in
from ..trust.audit_check import Suspicion, check_opening
from ..trust.audit_statements import OpeningKind
from ..trust.expert_arithmetic import ExpertRows
from ..trust.recompute import Tolerance, compare, recompute
from ..trust.residuals import OpenedExpert, residuals
from ..trust.thresholds import Thresholds
from .adversaries.report import interval
from .random_experts import FORMS, RandomExperts, possible

BATCHES: Final = (1, 1, 1, 1, 2, 4, 8, 32)
"""Rows of one audit; each is also what the kernels get at once."""
THREADS: Final = (1, 2)
DTYPES_OF_ACTIVATIONS: Final = ("bfloat16", "float32")
HIDDEN, INTERMEDIATE, EXPERTS = 512, 352, 2
STAGES: Final = 2
FIRST_SEED: Final = 1 << 20
"""Calibration takes the seeds below."""


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
    """All audits, and those of each format, dtype and kind of opening."""

    kernels: str
    rate: float
    total: Count = field(default_factory=Count)
    parts: dict[str, Count] = field(default_factory=dict)

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
            "parts": {name: _counted(count) for name, count in sorted(self.parts.items())},
        }


def measure_kernels(rows: int, seed: int) -> Innocents:
    """Audits of `rows` honest rows by the kernels that this process has."""
    from ..kernels.native_library import load

    settings = AuditSettings()
    found = Innocents("torch" if load() is None else "native", settings.suspicion_rate)
    cases = [
        (form, layout, activation, dtype)
        for form in WeightFormat
        for layout, activation in FORMS
        if possible(form, layout)
        for dtype in DTYPES_OF_ACTIVATIONS
    ]
    with tempfile.TemporaryDirectory(prefix="folkmoot-innocents-") as scratch:
        for number, (form, layout, activation, dtype) in enumerate(cases):
            share = rows * (number + 1) // len(cases) - rows * number // len(cases)
            spec = ExpertSpec(HIDDEN, INTERMEDIATE, form.value, layout, activation)
            source = RandomExperts(spec, dtype, EXPERTS, seed + number)
            names = (form.value, f"{layout.value}, {activation.value}", f"activations {dtype}")
            print(f"{found.kernels}: {', '.join(names)}", file=sys.stderr, flush=True)
            model = _Model(source, Path(scratch) / str(number), settings)
            for kind, threads, count, suspected, convicted in model.audits(
                share, FIRST_SEED + 10_000 * number
            ):
                also = (f"{kind.name.lower()} openings", f"{count} rows", f"{threads} threads")
                found.add(names + also, count, suspected, convicted)
    return found


class _Model:
    """One model, its sketches and its thresholds."""

    def __init__(self, source: RandomExperts, folder: Path, settings: AuditSettings) -> None:
        self._experts = CanonicalExperts(source)
        self._book = SketchBook(folder, self._experts, secrets.token_bytes(32), 0, settings.projections)
        store = ThresholdStore(folder, self._experts, settings.projections, settings.suspicion_rate)
        self._thresholds: Thresholds = store.of(0, self._book)
        self._loaded = {
            key: Expert.load(source.manifest.specs[0], source.read_expert(key))
            for key in source.manifest.experts
        }

    def audits(self, rows: int, seed: int) -> Iterator[tuple[OpeningKind, int, int, bool, bool]]:
        """Audits until so many rows have been seen: kind, threads, rows, whether suspected, whether convicted."""
        keys, kinds = itertools.cycle(self._loaded), itertools.cycle(OpeningKind)
        batches, before = itertools.cycle(BATCHES), torch.get_num_threads()
        try:
            while rows:
                threads = THREADS[seed // len(BATCHES) % len(THREADS)]
                torch.set_num_threads(threads)
                count, kind = min(next(batches), rows), next(kinds)
                if seed % 3 == 0:
                    next(kinds)
                yield kind, threads, count, *self._audit(next(keys), count, kind, seed)
                rows -= count
                seed += 1
        finally:
            torch.set_num_threads(before)

    def _audit(self, key: ExpertKey, count: int, kind: OpeningKind, seed: int) -> tuple[bool, bool]:
        dtype = DTYPES[self._experts.manifest.dtype]
        hidden, expert = heavy_rows(count, HIDDEN, seed, dtype), self._loaded[key]  # [n, H]
        output = feed_forward([Group(expert, torch.arange(count), torch.ones(count))], hidden)
        gate, up = open_expert(expert, hidden)  # [n, I]
        wire = stands_in(expert, dtype) if kind is OpeningKind.RAW else torch.float32
        pairs = ExpertRows(key.expert, np.arange(count), np.ones(count, np.float32))
        opened = OpenedExpert(
            pairs, None if gate is None else gate.to(wire).float().numpy(), up.to(wire).float().numpy()
        )
        inputs, form = hidden.double().numpy(), self._experts.form(key)
        left = residuals(
            form,
            self._book.projections(key.layer),
            {key.expert: self._book.sketch(key)},
            inputs,
            output.numpy(),
            [opened],
        )
        if not isinstance(check_opening(left, self._thresholds, kind), Suspicion):
            return False, False
        truth = recompute(form, lambda _: self._experts.weights(key), inputs, [pairs])
        return True, bool(compare(output.numpy(), truth, Tolerance()).wrong)


def show(reports: list[dict[str, Any]]) -> None:
    """Prints the rows of each report."""
    print(
        f"{'honest rows of':<46}{'rows':>8}{'audits':>8}{'suspected':>10}{'rate':>10}{'95 %':>22}{'verdicts':>9}"
    )
    for report in reports:
        for name, part in {"all": report, **report["parts"]}.items():
            low, high = part["suspicion_rate_95"]
            print(
                f"{report['kernels'] + ': ' + name:<46}{part['rows']:>8}{part['audits']:>8}{part['suspicions']:>10}"
                f"{part['suspicion_rate']:>10.1e}{low:>12.1e} - {high:.1e}{part['verdicts']:>9}"
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
