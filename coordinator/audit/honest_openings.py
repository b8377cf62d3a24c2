"""What honest nodes leave when they are audited, measured on the operator's own model: what thresholds come from.

Guarantees: samples follow from the model, the projections and fixed seeds; they hold what this machine's kernels do with
few rows and with many, and the least exact that the arithmetic profile allows: one rounding each of gate, up, their
product and the output to the model's type. Inputs have a few channels that are much larger than the others, as real
activations have.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from ...ids import ExpertKey
from ...kernels.expert import Expert
from ...kernels.feed_forward import Group, feed_forward
from ...kernels.formats import DTYPES
from ...trust.audit_statements import OpeningKind
from ...trust.expert_arithmetic import (
    Doubles,
    ExpertForm,
    ExpertRows,
    ExpertWeights,
    Floats,
    activate,
    first_products,
    second_product,
)
from ...trust.residuals import OpenedExpert, Stage, StageResiduals, residuals
from .canonical_weights import CanonicalExperts, expert_weights
from .sketch_book import SketchBook

Samples = dict[str, dict[tuple[OpeningKind, Stage], list[StageResiduals]]]

EXPERTS: Final = 8
ROWS: Final = 160
"""Of each expert: enough over all of them for the tails that thresholds are drawn from."""
FEW_ROWS: Final = 4
OUTLIER_SHARE, OUTLIER_SIZE = 0.01, 15.0


def measure(experts: CanonicalExperts, book: SketchBook, spec: int) -> Samples:
    """Openings of honest nodes by source, kind and stage, of experts that have this spec.

    Raises:
        ModelError: when an expert cannot be read.
    """
    manifest = experts.manifest
    keys = [key for key in sorted(manifest.experts) if manifest.experts[key].spec == spec]
    chosen = [keys[index * len(keys) // EXPERTS] for index in range(EXPERTS)]
    samples: Samples = {}
    for number, key in enumerate(chosen):
        for source, kind, stage, part in _of_expert(experts, book, key, number):
            samples.setdefault(source, {}).setdefault((kind, stage), []).append(part)
    return samples


def heavy_rows(count: int, hidden: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows [n, H] with heavy tails and outlier channels."""
    generator = np.random.default_rng(seed)
    channels = np.exp(0.5 * generator.normal(size=hidden))
    channels[generator.choice(hidden, max(1, int(hidden * OUTLIER_SHARE)), replace=False)] *= OUTLIER_SIZE
    return torch.from_numpy(generator.standard_t(5, size=(count, hidden)) * channels).to(dtype)


def _of_expert(
    experts: CanonicalExperts, book: SketchBook, key: ExpertKey, seed: int
) -> Iterator[tuple[str, OpeningKind, Stage, StageResiduals]]:
    manifest, form = experts.manifest, experts.form(key)
    spec, data, dtype = manifest.spec_of(key), experts.read(key), DTYPES[manifest.dtype]
    expert, weights = Expert.load(spec, data), expert_weights(spec, data)
    rows = heavy_rows(ROWS, spec.hidden, seed, dtype)  # [n, H]
    inputs = rows.double().numpy()

    def rounded(values: Floats) -> Doubles:
        return torch.from_numpy(np.asarray(values, np.float64)).to(dtype).double().numpy()

    gate, up = first_products(weights, inputs)  # [n, I]
    tight = (_single(rows, weights.gate, weights.gate_bias), _single(rows, weights.up, weights.up_bias))
    raw = (None if gate is None else rounded(gate), rounded(up))
    outputs: dict[str, Floats] = {
        "kernels, few rows": _computed(expert, rows, FEW_ROWS),
        "kernels, many rows": _computed(expert, rows, ROWS),
        "the profile's least": _least_exact(form, weights, raw[0], raw[1], rounded),
    }
    pairs = ExpertRows(key.expert, np.arange(ROWS), np.ones(ROWS, np.float32))
    projections, sketches = book.projections(key.layer), {key.expert: book.sketch(key)}
    for source, output in outputs.items():
        for kind, (first, second) in ((OpeningKind.RAW, raw), (OpeningKind.TIGHT, tight)):
            assert second is not None
            opened = [OpenedExpert(pairs, first, second)]
            found = residuals(form, projections, sketches, inputs, output, opened)
            for stage, part in found.items():
                yield source, kind, stage, part


def _single(rows: torch.Tensor, matrix: Floats | None, bias: Floats | None) -> Floats | None:
    """A product in float32 throughout: [n, I]."""
    if matrix is None:
        return None
    added = None if bias is None else torch.from_numpy(bias)
    return F.linear(rows.float(), torch.from_numpy(matrix), added).numpy()


def _computed(expert: Expert, rows: torch.Tensor, at_once: int) -> Floats:
    """What this machine's kernels answer when rows come so many at a time."""
    parts = []
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        group = Group(expert, torch.arange(len(part)), torch.ones(len(part)))
        parts.append(feed_forward([group], part))
    return torch.cat(parts).numpy()


def _least_exact(
    form: ExpertForm,
    weights: ExpertWeights,
    gate: Doubles | None,
    up: Doubles,
    rounded: Callable[[Floats], Doubles],
) -> Floats:
    """What a node answers that rounds wherever the profile lets it."""
    return rounded(second_product(weights, rounded(activate(form, gate, up))))
