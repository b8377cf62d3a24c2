"""The page allocator: no page is owned twice, none is lost, and sequences mostly lie in one piece."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from folkmoot.coordinator.engine.pages import PageAllocator

TOTAL = 24


class Owners(RuleBasedStateMachine):
    """Owners take, grow and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = PageAllocator(TOTAL)
        self.owners: list[list[int]] = []

    @rule(count=st.integers(1, TOTAL + 1))
    def come(self, count: int) -> None:
        self._take(count, [])

    @precondition(lambda self: self.owners)
    @rule(count=st.integers(1, 4), data=st.data())
    def grow(self, count: int, data: st.DataObject) -> None:
        self._take(count, self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1))))

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.allocator.give_back(self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1))))

    def _take(self, count: int, owned: list[int]) -> None:
        free = self.allocator.free
        taken = {page for pages in [owned, *self.owners] for page in pages}
        follows = owned and owned[-1] + 1 < TOTAL and owned[-1] + 1 not in taken
        pages = self.allocator.take(count, owned[-1] if owned else None)
        assert (pages is None) == (count > free)
        if pages is not None:
            assert len(pages) == count
            if follows:
                assert pages[0] == owned[-1] + 1
            owned = owned + pages
        if owned:
            self.owners.append(owned)

    @invariant()
    def every_page_has_one_owner_or_none(self) -> None:
        owned = [page for pages in self.owners for page in pages]
        assert len(set(owned)) == len(owned)
        assert all(0 <= page < TOTAL for page in owned)
        assert self.allocator.free == TOTAL - len(owned)


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_sequences_that_grow_side_by_side_stay_in_one_piece() -> None:
    allocator = PageAllocator(64)
    owners: list[list[int]] = []
    for _ in range(4):
        pages = allocator.take(2)
        assert pages is not None
        owners.append(pages)
    for _ in range(10):
        for pages in owners:
            pages += allocator.take(1, pages[-1]) or []
    assert all(pages == list(range(pages[0], pages[0] + 12)) for pages in owners)


def test_a_page_cannot_be_given_back_twice() -> None:
    allocator = PageAllocator(2)
    pages = allocator.take(1)
    assert pages is not None
    allocator.give_back(pages)
    with pytest.raises(ValueError, match="twice"):
        allocator.give_back(pages)


def test_an_allocator_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one page"):
        PageAllocator(0)
