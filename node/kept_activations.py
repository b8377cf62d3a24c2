"""Gate and up activations of the frames computed last, so that opening them computes nothing again.

Guarantees: what is found is what this process computed for these rows by these experts of its session's manifest, as exactly as it would
compute it for an opening; whatever does not fit a question is not found, and has to be computed. It takes twice `MOST_BYTES` at most, with
the rows of frames, and keeps no expert alive. Every frame comes by here while the caches are full of weights: keeping does as little as it can.

Letters: R rows of a frame, H hidden size, P pairs of an expert and a row, I intermediate size.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import torch

from ..kernels.first_products import FirstProducts
from ..kernels.formats import Layout
from ..kernels.native_feed_forward import most_rows_of
from ..kernels.whole_inputs import WHOLE
from .challenges import Activations, Question
from .frames import Work
from .routing import Routing

MOST_BYTES: Final = 16 << 20
"""A row takes 6 KiB for each of its experts with I = 768: hundreds of rows have room."""
MOST_FRAMES: Final = 512
"""Small ones, a second's at a node's fastest: a coordinator takes a tenth of a second to ask, and whatever its own work takes."""

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


class _Frame(NamedTuple):
    """One frame's.

    Attributes:
        layer: The frame's.
        hidden: [R, H]
        routing: Its pairs.
        width: I
        gated: Whether there are gates.
        start, end: Where gates, then ups of all pairs, [P, I] each, lie among all numbers that are kept, and room for more.
    """

    layer: int
    hidden: torch.Tensor
    routing: Routing
    width: int
    gated: bool
    start: int
    end: int


class KeptActivations:
    """Those of one session; for the thread that computes alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._numbers = most_bytes // 4
        self._memory = torch.empty(0)
        self._address = 0
        self._start = self._end = 0
        self._frames: OrderedDict[int, _Frame] = OrderedDict()

    def room(self, work: Work) -> FirstProducts | None:
        """Where the activations of a frame that is computed now are to be left; None for one that is not kept."""
        spec = work.groups[0].expert.spec
        size = work.routing.pairs * spec.intermediate
        # The frame's rows are kept too, and counted as if they lay beside them.
        length = 2 * size + work.hidden.numel()
        if length > self._numbers // 2 or spec.format in WHOLE:
            return None
        if work.routing.most_rows > most_rows_of(spec, work.hidden.dtype):
            return None  # torch computes it
        if not self._address:
            self._memory = torch.empty(self._numbers)
            self._address = self._memory.data_ptr()
        start = self._end
        if start + length > self._numbers:
            self._forget(start, self._numbers)
            start = 0
        self._start, self._end = start, start + length
        self._forget(start, self._end)
        gate = self._address + 4 * start
        return FirstProducts(gate, gate + 4 * size, work.routing.pairs)

    def keep(self, work: Work, products: FirstProducts) -> None:
        """Remembers what was left in the room that was given last, for this frame."""
        if not products.filled:
            return
        self._frames.pop(work.sequence, None)
        spec = work.groups[0].expert.spec
        self._frames[work.sequence] = _Frame(
            work.layer,
            work.hidden,
            work.routing,
            spec.intermediate,
            spec.layout is not Layout.UNGATED,
            self._start,
            self._end,
        )
        while len(self._frames) > MOST_FRAMES:
            self._frames.popitem(last=False)

    def _forget(self, start: int, end: int) -> None:
        """Drops the oldest frames while they lie in this range, which begins where the last one ended, or at 0."""
        while self._frames:
            oldest = next(iter(self._frames.values()))
            if oldest.start >= end or oldest.end <= start:
                return
            self._frames.popitem(last=False)

    def find(self, question: Question) -> Activations | None:
        """What is asked for; None when any of it is not here."""
        frame = self._frames.get(question.sequence)
        if frame is None or frame.layer != question.layer or question.asked[-1] >= len(frame.hidden):
            return None
        asked = torch.tensor(question.asked)
        if not torch.equal(frame.hidden.index_select(0, asked), question.hidden):
            return None
        # Pairs are in canonical order, by expert and then row, in frames and in questions.
        count = len(frame.hidden)
        had = _numbered(((number, rows) for number, rows, _ in frame.routing.parts), count)
        wanted = _numbered(
            (
                (number, asked[rows])
                for number, (_, rows) in zip(question.numbers, question.parts, strict=True)
            ),
            count,
        )
        at = np.searchsorted(had, wanted)
        if at[-1] >= len(had) or not np.array_equal(had[at], wanted):
            return None
        shape, places = (2, frame.routing.pairs, frame.width), torch.from_numpy(at)
        gate, up = self._memory[frame.start : frame.start + math.prod(shape)].view(shape)
        return Activations(
            gate.index_select(0, places) if frame.gated else torch.empty(0, 0), up.index_select(0, places)
        )


def _numbered(parts: Iterable[tuple[int, torch.Tensor]], rows: int) -> Indices:
    """A number for each pair of an expert and one of so many rows, in the order of the pairs."""
    return np.concatenate([number * rows + its.numpy() for number, its in parts])
