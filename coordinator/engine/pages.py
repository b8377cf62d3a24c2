"""Who owns which page of the key and value memory.

Guarantees: a page has at most one owner; pages given back are free again and none is lost; the page that follows a
sequence's last one is taken first, and a new sequence starts in the middle of the largest gap, so that most sequences lie
in one piece and are read without a copy. Pure bookkeeping: no tensors, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable


class PageAllocator:
    """Hands out the pages 0 ... total - 1."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"an allocator needs at least one page, not {total}")
        self.total = total
        self._taken = bytearray(total)
        self.free = total

    def take(self, count: int, after: int | None = None) -> list[int] | None:
        """Takes `count` pages, in one piece if it can; None, and nothing taken, when fewer are free.

        Args:
            count: How many.
            after: The owner's last page: the pages after it are taken while they are free.
        """
        if count > self.free:
            return None
        pages: list[int] = []
        last = after
        while len(pages) < count:
            start = self._next(last, count - len(pages))
            end = start
            while end < self.total and not self._taken[end] and len(pages) < count:
                self._taken[end] = 1
                pages.append(end)
                end += 1
            last = end - 1
        self.free -= count
        return pages

    def give_back(self, pages: Iterable[int]) -> None:
        """Frees pages.

        Raises:
            ValueError: when one of them is free already; the pages before it are freed.
        """
        for page in pages:
            if not self._taken[page]:
                raise ValueError(f"page {page} is given back twice")
            self._taken[page] = 0
            self.free += 1

    def _next(self, last: int | None, count: int) -> int:
        """Where to go on after page `last`: the page behind it, or a place in the largest gap."""
        if last is not None and last + 1 < self.total and not self._taken[last + 1]:
            return last + 1
        start, length = self._largest_gap()
        if start == 0 or length <= count:
            return start
        return start + min(length // 2, length - count)

    def _largest_gap(self) -> tuple[int, int]:
        best_start, best_length = 0, 0
        start = self._taken.find(0)
        while start >= 0:
            end = self._taken.find(1, start)
            end = self.total if end < 0 else end
            if end - start > best_length:
                best_start, best_length = start, end - start
            start = self._taken.find(0, end)
        return best_start, best_length
