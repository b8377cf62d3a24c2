"""The model that adversaries are measured on: two layers of experts large enough that thresholds mean something.

Guarantees: made from a seed, once; the same everywhere. Every expert can be held by every node, so that a node on probation, which
is given few, can be asked for all of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from ...coordinator.audit.honest_openings import heavy_rows
from ...coordinator.dispatch.verified_result import VerifiedResult
from ...ids import ExpertKey
from ...kernels.expert import Expert
from ...kernels.feed_forward import Group, feed_forward
from ...models.prepare import prepare
from ...models.prepared import PreparedModel
from .. import random_olmoe

SHAPE = random_olmoe.Shape(
    layers=2, hidden=512, intermediate=352, experts=2, top_k=2, heads=8, vocabulary=64, seed=20_250_301
)


def prepared(folder: Path) -> PreparedModel:
    """The prepared model below `folder`, made at the first call."""
    checkpoint = random_olmoe.make(folder / "model", SHAPE)
    return prepare(str(checkpoint), folder / "prepared")


class Oracle:
    """What honest nodes answer, and rows to ask about."""

    def __init__(self, model: PreparedModel) -> None:
        self._model = model
        self._expert = cache(self._load)

    def rows(self, count: int, seed: int) -> torch.Tensor:
        """[count, H] with the outliers that activations have."""
        return heavy_rows(count, SHAPE.hidden, seed, torch.bfloat16)

    def answer(self, key: ExpertKey, hidden: torch.Tensor) -> torch.Tensor:
        """[R, H] float32: of rows that go through one expert, each with gate 1."""
        return feed_forward(
            [Group(self._expert(key), torch.arange(len(hidden)), torch.ones(len(hidden)))], hidden
        )

    def right(self, verified: VerifiedResult) -> torch.Tensor:
        """[R, H] float32: what an honest node had answered to a frame."""
        pairs, layer = verified.pairs, verified.task.layer
        groups = []
        for expert in pairs.loads[0]:
            of_expert = pairs.take(pairs.experts == expert)
            rows, gates = (
                torch.from_numpy(of_expert.rows.copy()).long(),
                torch.from_numpy(of_expert.gates.copy()),
            )
            groups.append(Group(self._expert(ExpertKey(layer, expert)), rows, gates))
        return feed_forward(groups, verified.hidden)

    def _load(self, key: ExpertKey) -> Expert:
        return Expert.load(self._model.manifest.spec_of(key), self._model.read_expert(key))
