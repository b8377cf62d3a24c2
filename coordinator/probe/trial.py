"""Rows for an expert with the answer that they must have.

Guarantees: a trial's rows are random and its answer is computed in float64 from canonical bytes that were checked; what is kept of
trials is bounded, and so is what making one takes: an expert's canonical bytes, and a slice of them as numbers. For one thread.

Letters: r rows of one expert, R rows of a frame, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ...ids import ExpertKey
from ...kernels.by_rows import by_rows
from ...kernels.expert import Expert
from ...kernels.formats import DTYPES
from ...trust.expert_arithmetic import Doubles, ExpertForm, activate
from ..audit.canonical_weights import CanonicalExperts
from ..audit.expert_sketching import slices
from ..audit.freed_memory import give_back
from ..dispatch.pairs import Pairs

MOST_BYTES = 32 << 20
"""Of all trials that are kept."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Rows for one expert.

    Attributes:
        key: The expert.
        hidden: [r, H] in the model's dtype.
        answer: [r, H] what must come back for them, but for rounding.
    """

    key: ExpertKey
    hidden: torch.Tensor = field(repr=False)
    answer: Doubles = field(repr=False)

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return self.hidden.numel() * self.hidden.element_size() + self.answer.nbytes


@dataclass(frozen=True, eq=False)
class TrialFrame:
    """The trials of one layer as one frame: each expert works on rows of its own, with gates of 1."""

    trials: Sequence[Trial]

    @property
    def layer(self) -> int:
        """Of all of them."""
        return self.trials[0].key.layer

    @cached_property
    def hidden(self) -> torch.Tensor:
        """[R, H] the rows of all experts."""
        return torch.cat([trial.hidden for trial in self.trials])

    @cached_property
    def pairs(self) -> Pairs:
        """Which expert works on which rows."""
        counts = [len(trial.hidden) for trial in self.trials]
        experts = np.repeat(np.array([trial.key.expert for trial in self.trials], np.int32), counts)
        rows = np.arange(len(experts), dtype=np.int32)
        return Pairs(experts, rows, np.ones(len(experts), np.float32))

    @cached_property
    def answer(self) -> Doubles:
        """[R, H] what must come back, but for rounding."""
        return np.concatenate([trial.answer for trial in self.trials])


def frames_of(trials: Sequence[Trial]) -> list[TrialFrame]:
    """One frame for each layer."""
    layers: dict[int, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.key):
        layers.setdefault(trial.key.layer, []).append(trial)
    return [TrialFrame(of_layer) for of_layer in layers.values()]


class Trials:
    """The trials of one model."""

    def __init__(self, experts: CanonicalExperts, rows: int, most_bytes: int = MOST_BYTES) -> None:
        """`rows` is r."""
        self._experts = experts
        self._rows = rows
        self._most_bytes = most_bytes
        self._kept: OrderedDict[ExpertKey, Trial] = OrderedDict()
        self._bytes = 0
        self._draws = torch.Generator()
        self._draws.seed()

    @property
    def known(self) -> frozenset[ExpertKey]:
        """The experts whose trials are at hand."""
        return frozenset(self._kept)

    def of(self, key: ExpertKey) -> Trial:
        """The trial of an expert.

        Raises:
            ModelError: when its canonical bytes cannot be read, or are damaged.
        """
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        manifest = self._experts.manifest
        hidden = torch.randn(self._rows, manifest.hidden, generator=self._draws)
        hidden = hidden.to(DTYPES[manifest.dtype])  # [r, H]
        with self._experts.in_turn:
            answer = exact_answer(self._experts.form(key), self._experts.load(key), hidden)
            give_back()
        trial = self._kept[key] = Trial(key, hidden, answer)
        self._bytes += trial.size
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return trial


def exact_answer(form: ExpertForm, expert: Expert, hidden: torch.Tensor) -> Doubles:
    """What an expert answers to rows [r, H]: [r, H] float64."""
    parts = by_rows(expert)

    def product(role: str, rows: torch.Tensor) -> torch.Tensor:
        matrix, bias = parts[role]
        sums = torch.cat([rows @ part.double().T for _, part in slices(matrix)], dim=1)
        return sums if bias is None else sums + bias.double()

    rows = hidden.double()
    gate = product("gate", rows).numpy() if form.gated else None  # [r, I]
    inner = activate(form, gate, product("up", rows).numpy())  # [r, I]
    return product("down", torch.from_numpy(inner)).numpy()
