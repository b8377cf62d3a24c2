"""Spans are a set of bytes: they agree with a plain set, whatever is added in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from folkmoot.node.sources.spans import Span, Spans

SIZE = 40
EDGES = st.tuples(st.integers(-5, SIZE + 5), st.integers(-5, SIZE + 5))


@given(st.lists(EDGES, max_size=12))
def test_spans_agree_with_a_set(edges: list[tuple[int, int]]) -> None:
    spans, bytes_there = Spans(SIZE), set()
    for start, end in edges:
        spans.add(Span(start, end))
        bytes_there |= set(range(start, end))
    bytes_there &= set(range(SIZE))
    assert {byte for span in spans.present for byte in range(*span)} == bytes_there
    assert {byte for span in spans.missing() for byte in range(*span)} == set(range(SIZE)) - bytes_there
    assert spans.length == len(bytes_there)
    assert spans.complete == (len(bytes_there) == SIZE)
    for first, second in zip(spans.present, spans.present[1:], strict=False):
        assert first.start < first.end < second.start < second.end
    assert Spans(SIZE, spans.present).present == spans.present


def test_nothing_of_nothing_is_complete() -> None:
    assert Spans(0).complete
    assert Spans(0).missing() == ()
