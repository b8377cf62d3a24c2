"""Requests for ranges of files bring every wanted byte once and nothing else, and each byte goes back to its expert."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.ids import ExpertKey
from folkmoot.models.manifest import ByteRange
from folkmoot.node.sources.file_ranges import Splitter, joined, parts_of
from folkmoot.node.sources.spans import Span, Spans
from folkmoot.node.sources.weight_source import Want


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[ExpertKey, tuple[ByteRange, ...]], dict[ExpertKey, Want]]:
    """Experts of two tensors each, laid out in some order over two files with gaps here and there; some of their bytes."""
    places = [(expert, tensor) for expert in range(draw(st.integers(1, 4))) for tensor in range(2)]
    ends = [0, 0]
    ranges: dict[tuple[int, int], ByteRange] = {}
    for place in draw(st.permutations(places)):
        file, length = draw(st.integers(0, 1)), draw(st.integers(1, 9))
        start = ends[file] + draw(st.sampled_from([0, 0, 3]))
        ranges[place] = ByteRange(file, start, length)
        ends[file] = start + length
    experts: dict[ExpertKey, tuple[ByteRange, ...]] = {}
    wants: dict[ExpertKey, Want] = {}
    for expert in {expert for expert, _ in places}:
        key = ExpertKey(0, expert)
        experts[key] = (ranges[expert, 0], ranges[expert, 1])
        there = Spans(sum(place.length for place in experts[key]))
        for start in draw(st.lists(st.integers(0, there.size), max_size=3)):
            there.add(Span(start, start + 2))
        wants[key] = Want(key, there.missing())
    return experts, wants


@given(layouts(), st.integers(1, 30), st.integers(1, 7))
def test_every_wanted_byte_comes_once_and_goes_where_it_belongs(
    layout: tuple[dict[ExpertKey, tuple[ByteRange, ...]], dict[ExpertKey, Want]], most_bytes: int, chunk: int
) -> None:
    experts, wants = layout
    files = [bytes((7 * number + 100 * file) % 256 for number in range(100)) for file in range(2)]
    requests = joined(
        [part for key, want in wants.items() for part in parts_of(want, experts[key])], most_bytes
    )
    came: dict[ExpertKey, dict[int, int]] = {key: {} for key in experts}
    for request in requests:
        data = files[request.file][request.offset : request.offset + request.length]
        splitter = Splitter(request)
        for start in range(0, len(data), chunk):
            for piece in splitter.split(data[start : start + chunk]):
                for index, byte in enumerate(piece.data):
                    assert piece.offset + index not in came[piece.key], "a byte came twice"
                    came[piece.key][piece.offset + index] = byte
        assert splitter.left == 0
    for key, places in experts.items():
        canonical = b"".join(
            files[place.file][place.offset : place.offset + place.length] for place in places
        )
        wanted = [number for span in wants[key].missing for number in range(*span)]
        assert came[key] == {number: canonical[number] for number in wanted}


@given(layouts())
def test_what_touches_is_one_request(
    layout: tuple[dict[ExpertKey, tuple[ByteRange, ...]], dict[ExpertKey, Want]],
) -> None:
    experts, wants = layout
    requests = joined([part for key, want in wants.items() for part in parts_of(want, experts[key])], 1 << 30)
    for first, second in pairwise(requests):
        assert (first.file, first.offset + first.length) < (second.file, second.offset)


def test_more_bytes_than_were_asked_for_are_refused() -> None:
    want = Want(ExpertKey(0, 0), (Span(0, 4),))
    (request,) = joined(parts_of(want, [ByteRange(0, 10, 4)]), 100)
    splitter = Splitter(request)
    assert [piece.data for piece in splitter.split(b"abc")] == [b"abc"]
    with pytest.raises(ValueError, match="2 bytes came where 1 are left"):
        list(splitter.split(b"de"))
