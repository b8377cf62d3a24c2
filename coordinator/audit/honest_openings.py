"""What honest nodes leave when they are audited, measured on the operator's own model: what thresholds come from.

Guarantees: samples follow from the model, the projections and fixed seeds; they hold what this machine's kernels do with few rows and
with many, and the least exact that the arithmetic profile allows: one rounding each of gate, up, their product and the output to the
model's type, and the inputs of whole-number weights as the native kernels have them, whether this machine has these or not. Each opens
raw what it computed with, but for what the rounding of inputs did to it, which nobody opens. Inputs have a few channels that are much
larger than the others, as real activations have.

Letters: n rows, H hidden size, I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ...ids import ExpertKey
from ...kernels.by_rows import by_rows
from ...kernels.expert import Expert
from ...kernels.feed_forward import Group, feed_forward
from ...kernels.formats import DTYPES
from ...kernels.opening import open_expert, stands_in
from ...kernels.whole_inputs import rounded_inputs
from ...trust.audit_statements import OpeningKind
from ...trust.expert_arithmetic import Doubles, ExpertRows, Floats, activate
from ...trust.residuals import OpenedExpert, Stage, StageResiduals, residuals
from .canonical_weights import CanonicalExperts
from .expert_sketching import slices
from .freed_memory import give_back
from .sketch_book import SketchBook

_Opened = tuple[Floats | None, Floats]
Samples = dict[str, dict[tuple[OpeningKind, Stage], list[StageResiduals]]]

METHOD: Final = 2
"""Of how this module measures: whoever keeps what came of another measures again."""
EXPERTS: Final = 8
ROWS: Final = 128
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
        sketch = book.sketch(key)
        with experts.in_turn:
            answers = _answers(experts, key, number)
            give_back()
        pairs = ExpertRows(key.expert, np.arange(ROWS), np.ones(ROWS, np.float32))
        for source, (output, raw) in answers.outputs.items():
            for kind, (gate, up) in ((OpeningKind.RAW, raw), (OpeningKind.TIGHT, answers.exactly)):
                found = residuals(
                    experts.form(key),
                    book.projections(key.layer),
                    {key.expert: sketch},
                    answers.inputs,
                    output,
                    [OpenedExpert(pairs, gate, up)],
                )
                for stage, part in found.items():
                    samples.setdefault(source, {}).setdefault((kind, stage), []).append(part)
    return samples


def heavy_rows(count: int, hidden: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows [n, H] with heavy tails and outlier channels."""
    generator = np.random.default_rng(seed)
    channels = np.exp(0.5 * generator.normal(size=hidden))
    channels[generator.choice(hidden, max(1, int(hidden * OUTLIER_SHARE)), replace=False)] *= OUTLIER_SIZE
    return torch.from_numpy(generator.standard_t(5, size=(count, hidden)) * channels).to(dtype)


@dataclass(frozen=True, eq=False)
class _Answers:
    """What honest nodes answer to rows of one expert, and what they open.

    Attributes:
        inputs: [n, H].
        outputs: [n, H] by source, each with the gate and up activations, [n, I], that it opens raw.
        exactly: Those that all open tightly.
    """

    inputs: Doubles
    outputs: dict[str, tuple[Floats, _Opened]]
    exactly: _Opened


def _answers(experts: CanonicalExperts, key: ExpertKey, seed: int) -> _Answers:
    manifest, form = experts.manifest, experts.form(key)
    spec, expert, dtype = manifest.spec_of(key), experts.load(key), DTYPES[manifest.dtype]
    rows = heavy_rows(ROWS, spec.hidden, seed, dtype)  # [n, H]
    gate, up = open_expert(expert, rows)  # [n, I]
    exactly, least = _opened(gate, up, torch.float32), _opened(gate, up, dtype)
    here = _opened(gate, up, stands_in(expert, dtype))
    inner = activate(form, *_opened(*open_expert(expert, rounded_inputs(rows, spec.format)), dtype))
    answer = _second_product(expert, rounded_inputs(torch.from_numpy(inner).to(dtype), spec.format))  # [n, H]
    return _Answers(
        rows.double().numpy(),
        {
            "kernels, few rows": (_computed(expert, rows, FEW_ROWS), here),
            "kernels, many rows": (_computed(expert, rows, ROWS), here),
            "the profile's least": (answer.to(dtype).double().numpy(), least),
        },
        exactly,
    )


def _opened(gate: torch.Tensor | None, up: torch.Tensor, dtype: torch.dtype) -> _Opened:
    """Gate and up activations as they are when they are rounded to a type."""
    return (None if gate is None else gate.to(dtype).double().numpy()), up.to(dtype).double().numpy()


def _second_product(expert: Expert, inner: torch.Tensor) -> torch.Tensor:
    """Inner activations [n, I] times the down matrix, in float32: [n, H]."""
    down, bias = by_rows(expert)["down"]
    answer = torch.cat([inner @ part.T for _, part in slices(down)], dim=1)
    return answer if bias is None else answer + bias.float()


def _computed(expert: Expert, rows: torch.Tensor, at_once: int) -> Floats:
    """What this machine's kernels answer when rows come so many at a time."""
    parts = []
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        group = Group(expert, torch.arange(len(part)), torch.ones(len(part)))
        parts.append(feed_forward([group], part))
    return torch.cat(parts).numpy()
