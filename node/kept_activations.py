"""Gate and up activations of the frames computed last, so that opening them computes nothing again.

Guarantees: what is found is what this process computed for these rows by these experts, as exactly as it would compute it for an
opening; whatever does not fit a question bit for bit is not found, and has to be computed. It takes a fixed amount of memory and keeps no
expert alive.

Letters: R rows of a frame, n rows of a question, H hidden size, P pairs of an expert and a row, I intermediate size.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from ..kernels.expert import Expert
from ..kernels.first_products import FirstProducts
from ..kernels.formats import Layout
from ..kernels.whole_inputs import WHOLE
from .challenges import Activations, Question
from .frames import Work

MOST_BYTES: Final = 16 << 20
"""A decoded token takes 6 KiB for each pair of an expert with I = 768: hundreds of them have room."""
MOST_FRAMES: Final = 64

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame's.

    Attributes:
        hidden: [R, H]
        experts, rows: Of each group in turn.
        products: Activations of all pairs, in the order of groups.
        start, end: Where they lie among all, in numbers of float32.
    """

    hidden: torch.Tensor
    experts: Sequence[weakref.ref[Expert]]
    rows: Sequence[torch.Tensor]
    products: FirstProducts
    start: int
    end: int


class KeptActivations:
    """Those of one session; for the thread that computes alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._numbers = most_bytes // 4
        self._memory: torch.Tensor | None = None
        self._start = self._end = 0
        self._frames: OrderedDict[int, _Frame] = OrderedDict()

    def room(self, work: Work) -> FirstProducts | None:
        """Where the activations of a frame that is computed now are to be left; None for one that is not kept."""
        if not work.groups:
            return None
        spec = work.groups[0].expert.spec
        pairs, width = sum(group.rows.numel() for group in work.groups), spec.intermediate
        # The frame's rows are kept too, and counted as if they lay beside them.
        length = 2 * pairs * width + work.hidden.numel()
        if spec.format in WHOLE or length > self._numbers // 2:
            return None
        if self._memory is None:
            self._memory = torch.empty(self._numbers)
        start = self._end if self._end + length <= self._numbers else 0
        end = start + length
        for sequence in [one for one, kept in self._frames.items() if kept.start < end and start < kept.end]:
            del self._frames[sequence]
        self._start, self._end = start, end
        both = self._memory[start : start + 2 * pairs * width].view(2, pairs, width)
        return FirstProducts(None if spec.layout is Layout.UNGATED else both[0], both[1])

    def keep(self, work: Work, products: FirstProducts) -> None:
        """Remembers what was left in the room that was given last, for this frame."""
        if not products.filled:
            return
        self._frames.pop(work.sequence, None)
        self._frames[work.sequence] = _Frame(
            work.hidden,
            [weakref.ref(group.expert) for group in work.groups],
            [group.rows for group in work.groups],
            products,
            self._start,
            self._end,
        )
        while len(self._frames) > MOST_FRAMES:
            self._frames.popitem(last=False)

    def find(self, question: Question) -> Activations | None:
        """What is asked for; None when any of it is not here."""
        frame = self._frames.get(question.sequence)
        if frame is None:
            return None
        asked = torch.tensor(question.asked)
        count = len(frame.hidden)
        if question.asked[-1] >= count or not torch.equal(
            frame.hidden.index_select(0, asked), question.hidden
        ):
            return None
        groups = {expert(): number for number, expert in enumerate(frame.experts)}
        if not all(expert in groups for expert, _ in question.parts):
            return None
        # Pairs are in canonical order, by expert and then row, in frames and in questions.
        had = _numbered(enumerate(frame.rows), count)
        wanted = _numbered(((groups[expert], asked[rows]) for expert, rows in question.parts), count)
        at = np.searchsorted(had, wanted)
        if at[-1] >= len(had) or not np.array_equal(had[at], wanted):
            return None
        places = torch.from_numpy(at)
        gate, up = frame.products.gate, frame.products.up
        return Activations(
            torch.empty(0, 0) if gate is None else gate.index_select(0, places), up.index_select(0, places)
        )


def _numbered(parts: Iterable[tuple[int, torch.Tensor]], rows: int) -> Indices:
    """A number for each pair of a group and one of so many rows."""
    return np.concatenate([group * rows + its.numpy() for group, its in parts])
