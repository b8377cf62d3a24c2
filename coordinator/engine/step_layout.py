"""The index tensors of one step, made once and used by every layer.

Guarantees: packed tokens lie in the order of the plan's chunks, a chunk's drafts behind its tokens; every token sees exactly
the tokens of its own sequence that its layer's cache allows, itself always among them, and no draft of an earlier step that
was not kept: a step writes over what lies at its own positions, and no row of it sees a position behind its own.

Letters: T tokens of the step, S rows that are sampled, P page size, B sequences attended together, n pages or keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from ...models.trunk_spec import CacheSpec
from .kv_memory import token_bytes
from .scheduler import Chunk, StepPlan

COPY_BYTES = 32 << 10
"""Up to so many bytes of keys and values it costs less to copy several sequences side by side than to visit each."""


@dataclass(frozen=True)
class Alone:
    """One sequence's rows against its own keys.

    Attributes:
        begin, end: Rows of the step.
        keys: Slots of the keys where they lie in one piece, else [n], the pages to gather.
        counted: Which of the gathered keys count.
        causal: True when row i sees the keys 0 ... i and no mask is needed.
        mask: [rows, keys], added to the scores; None when every row sees all keys, or is causal.
    """

    begin: int
    end: int
    keys: slice | torch.Tensor
    counted: slice
    causal: bool
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Together:
    """One row each of B sequences against their keys side by side.

    Attributes:
        rows: [B], rows of the step.
        pages: [B x n], each sequence's pages, filled up with pages of its own that the mask hides.
        mask: [B, 1, 1, n x P], added to the scores.
    """

    rows: torch.Tensor
    pages: torch.Tensor
    mask: torch.Tensor


Piece = Alone | Together


class StepLayout:
    """A step's tokens, their positions and places, and who sees whom.

    Attributes:
        input_ids: [T] int64.
        positions: [T] int64.
        slots: Where the step's keys are stored: a slice where they lie in one piece, else [T] int64.
        sampled_rows: [S] int64, the rows after which a token is sampled: a sequence's last one, and each of its drafts.
    """

    def __init__(self, plan: StepPlan, page_tokens: int, dtype: torch.dtype) -> None:
        self._page_tokens = page_tokens
        self._dtype = dtype
        self._chunks: list[tuple[int, Chunk]] = []
        self._pieces: dict[CacheSpec, list[Piece]] = {}
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[int] = []
        for chunk in plan.chunks:
            self._chunks.append((len(ids), chunk))
            ids += chunk.sequence.tokens[chunk.start : chunk.end]
            ids += chunk.drafts
            positions += range(chunk.start, chunk.stop)
            pages = chunk.sequence.pages
            slots += [
                pages[position // page_tokens] * page_tokens + position % page_tokens
                for position in range(chunk.start, chunk.stop)
            ]
            if chunk.samples:
                sampled += range(len(ids) - 1 - len(chunk.drafts), len(ids))
        self.input_ids = torch.tensor(ids)
        self.positions = torch.tensor(positions)
        self.slots = slice(slots[0], slots[-1] + 1) if _rises_by_one(slots) else torch.tensor(slots)
        self.sampled_rows = torch.tensor(sampled, dtype=torch.int64)

    def pieces(self, cache: CacheSpec) -> list[Piece]:
        """How layers with such a cache attend; the same list for all of them."""
        pieces = self._pieces.get(cache)
        if pieces is None:
            pieces = self._pieces[cache] = self._divide(cache)
        return pieces

    def _divide(self, cache: CacheSpec) -> list[Piece]:
        pieces: list[Piece] = []
        together: dict[int, list[tuple[int, Chunk]]] = {}
        for row, chunk in self._chunks:
            first = _first_visible(cache, chunk.start)
            copied = (chunk.stop - first) * token_bytes(cache, self._dtype)
            if chunk.rows > 1 or copied > COPY_BYTES:
                pieces.append(self._alone(cache, row, chunk))
            else:
                together.setdefault(len(self._pages(chunk, first)).bit_length(), []).append((row, chunk))
        for members in together.values():
            if len(members) == 1:
                pieces.append(self._alone(cache, *members[0]))
            else:
                pieces.append(self._together(cache, members))
        return pieces

    def _alone(self, cache: CacheSpec, row: int, chunk: Chunk) -> Alone:
        first = _first_visible(cache, chunk.start)
        pages = self._pages(chunk, first)
        offset, length = first % self._page_tokens, chunk.stop - first
        start = pages[0] * self._page_tokens + offset
        rows = chunk.rows
        causal = rows > 1 and first == chunk.start and _first_visible(cache, chunk.stop - 1) == first
        return Alone(
            begin=row,
            end=row + rows,
            keys=slice(start, start + length) if _rises_by_one(pages) else torch.tensor(pages),
            counted=slice(offset, offset + length),
            causal=causal,
            mask=self._mask(cache, chunk, first) if rows > 1 and not causal else None,
        )

    def _mask(self, cache: CacheSpec, chunk: Chunk, first: int) -> torch.Tensor:
        row = torch.arange(chunk.start, chunk.stop)[:, None]  # [rows, 1]
        key = torch.arange(first, chunk.stop)  # [keys]
        hidden = key > row
        if cache.window is not None:
            hidden |= key <= row - cache.window
        if cache.chunk is not None:
            hidden |= key < row - row % cache.chunk
        return self._hide(hidden)

    def _together(self, cache: CacheSpec, members: list[tuple[int, Chunk]]) -> Together:
        size = self._page_tokens
        firsts = [_first_visible(cache, chunk.start) for _, chunk in members]
        tables = [self._pages(chunk, first) for (_, chunk), first in zip(members, firsts, strict=True)]
        longest = max(len(table) for table in tables)
        pages = [page for table in tables for page in table + table[:1] * (longest - len(table))]
        begin = torch.tensor([first % size for first in firsts])[:, None]  # [B, 1]
        end = torch.tensor(
            [c.stop - first + first % size for (_, c), first in zip(members, firsts, strict=True)]
        )
        key = torch.arange(longest * size)  # [n x P]
        hidden = (key < begin) | (key >= end[:, None])
        return Together(
            rows=torch.tensor([row for row, _ in members]),
            pages=torch.tensor(pages),
            mask=self._hide(hidden)[:, None, None, :],
        )

    def _pages(self, chunk: Chunk, first: int) -> list[int]:
        """The pages of the tokens `first` ... `chunk.stop - 1`."""
        size = self._page_tokens
        return chunk.sequence.pages[first // size : -(-chunk.stop // size)]

    def _hide(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, float("-inf"))


def _first_visible(cache: CacheSpec, position: int) -> int:
    """The first position that the token at `position` sees."""
    first = 0
    if cache.window is not None:
        first = max(first, position - cache.window + 1)
    if cache.chunk is not None:
        first = max(first, position - position % cache.chunk)
    return first


def _rises_by_one(numbers: list[int]) -> bool:
    return all(after == before + 1 for before, after in pairwise(numbers))
