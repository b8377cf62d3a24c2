"""How often cheats are caught by the sketch audit, at any size of expert and with any number of projections.

Guarantees: answers follow from seeds and are computed once; thresholds come from as many honest rows as a coordinator measures, of
other experts and projections than those that are judged, at the shipped rate. Of one row many audits are made, each with
projections of its own, so that a rate needs few rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Final

import numpy as np

from folkmoot.tests.support.honest_samples import all_rows
from folkmoot.tests.support.plain_experts import (
    HONEST,
    Arithmetic,
    Cheat,
    Singles,
    answer,
    cheated,
    heavy_rows,
    random_expert,
    tight,
)
from folkmoot.trust.audit_check import Passed, check_opening
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.calibration import calibrate
from folkmoot.trust.expert_arithmetic import Activation, ExpertForm, ExpertWeights
from folkmoot.trust.projections import MAX_COUNT, Projections, derive_projections
from folkmoot.trust.residuals import OpenedExpert, Residuals, Stage, StageResiduals, residuals
from folkmoot.trust.sketch import ExpertSketch, sketch_expert
from folkmoot.trust.thresholds import Thresholds

FORM: Final = ExpertForm(Activation.SWIGLU)
NODE: Final = HONEST["bfloat16"]
"""What cheats round like: the least exact honest arithmetic hides them best."""
CALIBRATION_EXPERTS, CALIBRATION_ROWS = 8, 128
MOST_SETS: Final = 16
"""Of projections that each row is audited with."""
HONEST_NAMES: Final = tuple(HONEST)


@dataclass(frozen=True, eq=False)
class Answered:
    """What a node signs for rows of one expert, and how it opens them.

    Attributes:
        output: [n, H].
        opened: By kind.
    """

    output: Singles
    opened: dict[OpeningKind, list[OpenedExpert]]


@dataclass(frozen=True, eq=False)
class Layer:
    """One expert of a layer, rows for it, and as many projections as there may be."""

    hidden: int
    intermediate: int
    rows: int
    seed: int

    @cached_property
    def weights(self) -> ExpertWeights:
        """Canonical."""
        return random_expert(FORM, self.hidden, self.intermediate, self.seed)

    @cached_property
    def inputs(self) -> Singles:
        """[n, H]"""
        return heavy_rows(self.rows, self.hidden, 1000 + self.seed)

    @cached_property
    def projections(self) -> Projections:
        """All that there may be."""
        secret = self.seed.to_bytes(32, "big")
        return derive_projections(secret, 1, b"m" * 32, 0, self.hidden, self.intermediate, MAX_COUNT)

    @cached_property
    def sketch(self) -> ExpertSketch:
        """Of the canonical weights, by all projections."""
        return sketch_expert(self.projections, self.weights)

    def answered(self, name: str) -> Answered:
        """What a node of this name answers and opens."""
        pairs = all_rows(self.rows)
        honest = HONEST.get(name)
        arithmetic: Arithmetic = NODE if honest is None else honest
        output, raw = answer(FORM, [self.weights], pairs, self.inputs, arithmetic)
        exactly = tight([self.weights], pairs, self.inputs)
        match name:
            case _ if honest is not None:
                pass
            case "bias 1 %":
                output = output * np.float32(1.01)
            case "zeros":
                output = output * 0
            case "stale":
                output = np.roll(output, 1, axis=0)
            case "garbage":
                noise = np.random.default_rng(self.seed).normal(size=output.shape)
                output = (noise * output.std()).astype(np.float32)
            case "all zeros":
                raw = exactly = [replace(one, gate=one.up * 0, up=one.up * 0) for one in raw]
                output = output * 0
            case "honest opening, int8 output":
                false = [cheated(self.weights, Cheat.INT8_CHANNEL)]
                output = answer(FORM, false, pairs, self.inputs, NODE)[0]
            case _:
                false = [cheated(self.weights, Cheat(name))]
                output, raw = answer(FORM, false, pairs, self.inputs, NODE)
                exactly = tight(false, pairs, self.inputs)
        return Answered(output, {OpeningKind.RAW: raw, OpeningKind.TIGHT: exactly})

    def residuals(self, answered: Answered, kind: OpeningKind, count: int, first: int) -> Residuals:
        """Those of `count` projections from the `first` on."""
        chosen = slice(first, first + count)
        bank, sketch = self.projections, self.sketch
        assert sketch.gate is not None
        return residuals(
            FORM,
            Projections(bank.identity, bank.inner[chosen], bank.outer[chosen]),
            {
                0: ExpertSketch(
                    bank.identity,
                    sketch.gate[chosen],
                    sketch.up[chosen],
                    sketch.down[chosen],
                    sketch.gate_bias[chosen],
                    sketch.up_bias[chosen],
                    sketch.down_bias[chosen],
                )
            },
            self.inputs,
            answered.output,
            answered.opened[kind],
        )


class Detection:
    """Experts of one size, and how often who is caught."""

    def __init__(self, hidden: int, intermediate: int, layers: int, rows: int) -> None:
        self._layers = [Layer(hidden, intermediate, rows, seed) for seed in range(layers)]
        self._honest = [
            Layer(hidden, intermediate, CALIBRATION_ROWS, 500 + seed) for seed in range(CALIBRATION_EXPERTS)
        ]
        self.thresholds = cache(self._thresholds)
        self._answered = cache(self._all_answered)
        self._calibrating = cache(lambda name: [layer.answered(name) for layer in self._honest])

    def caught(self, name: str, rows: int, count: int, kind: OpeningKind) -> tuple[int, int]:
        """How many audits of so many rows and projections end in suspicion, and of how many."""
        suspected = audits = 0
        for layer, answered in zip(self._layers, self._answered(name), strict=True):
            for number in range(min(MAX_COUNT // count, MOST_SETS)):
                for one in _audits(layer.residuals(answered, kind, count, number * count), rows):
                    suspected += not isinstance(check_opening(one, self.thresholds(count), kind), Passed)
                    audits += 1
        return suspected, audits

    def _all_answered(self, name: str) -> list[Answered]:
        return [layer.answered(name) for layer in self._layers]

    def _thresholds(self, count: int) -> Thresholds:
        samples: dict[str, dict[tuple[OpeningKind, Stage], list[StageResiduals]]] = {}
        for name in HONEST_NAMES:
            stages = samples.setdefault(name, {})
            for layer, answered in zip(self._honest, self._calibrating(name), strict=True):
                for kind in OpeningKind:
                    for stage, part in layer.residuals(answered, kind, count, 0).items():
                        stages.setdefault((kind, stage), []).append(part)
        return calibrate(samples)


def _audits(found: Residuals, rows: int) -> Iterator[Residuals]:
    """The residuals of many rows as audits of a few rows each."""
    most = min(len(part.errors) for part in found.values())
    for start in range(0, most - rows + 1, rows):
        chosen = slice(start, start + rows)
        yield {
            stage: StageResiduals(part.errors[chosen], part.expected[chosen]) for stage, part in found.items()
        }
