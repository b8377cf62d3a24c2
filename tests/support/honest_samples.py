"""Openings of honest nodes, measured: what thresholds are calibrated from in tests.

Guarantees: samples follow from the seeds; each block is the rows of one frame through experts of its own, in each of
the arithmetics that the profile allows, opened raw and tight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from folkmoot.tests.support.plain_experts import (
    HONEST,
    Arithmetic,
    answer,
    heavy_rows,
    random_expert,
    tight,
)
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.expert_arithmetic import ExpertForm, ExpertRows, ExpertWeights, Floats
from folkmoot.trust.projections import Projections
from folkmoot.trust.residuals import OpenedExpert, Stage, StageResiduals, residuals
from folkmoot.trust.sketch import sketch_expert

Samples = dict[tuple[OpeningKind, Stage], list[StageResiduals]]


def all_rows(count: int, gates: Sequence[float] = (1.0,)) -> list[ExpertRows]:
    """Pairs that send each row to every expert, each with its gate."""
    return [
        ExpertRows(expert, np.arange(count), np.full(count, gate, np.float32))
        for expert, gate in enumerate(gates)
    ]


def measured(
    form: ExpertForm,
    projections: Projections,
    weights: Sequence[ExpertWeights],
    rows: Floats,
    output: Floats,
    opened: Sequence[OpenedExpert],
) -> dict[Stage, StageResiduals]:
    """The residuals of an opening, with sketches made for it."""
    sketches = {expert: sketch_expert(projections, held) for expert, held in enumerate(weights)}
    return residuals(form, projections, sketches, rows, output, opened)


def honest_samples(
    form: ExpertForm,
    projections: Projections,
    blocks: int,
    rows: int,
    gates: Sequence[float] = (1.0,),
    seed: int = 0,
) -> dict[str, Samples]:
    """Residuals of `blocks` frames of `rows` rows for each honest arithmetic."""
    return {
        name: _samples(form, projections, arithmetic, blocks, rows, gates, seed)
        for name, arithmetic in HONEST.items()
    }


def _samples(
    form: ExpertForm,
    projections: Projections,
    arithmetic: Arithmetic,
    blocks: int,
    rows: int,
    gates: Sequence[float],
    seed: int,
) -> Samples:
    hidden, intermediate = projections.outer.shape[1], projections.inner.shape[1]
    samples: Samples = {}
    for block in range(seed, seed + blocks):
        weights = [random_expert(form, hidden, intermediate, 1000 * block + n) for n in range(len(gates))]
        pairs, inputs = all_rows(rows, gates), heavy_rows(rows, hidden, block)
        output, raw = answer(form, weights, pairs, inputs, arithmetic)
        for kind, opened in ((OpeningKind.RAW, raw), (OpeningKind.TIGHT, tight(weights, pairs, inputs))):
            for stage, part in measured(form, projections, weights, inputs, output, opened).items():
                samples.setdefault((kind, stage), []).append(part)
    return samples
