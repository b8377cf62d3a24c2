"""Stop strings end a text at the same place however it is cut into pieces, and never let a part of one out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.engine.stop_strings import StopStrings

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


def feed(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    watcher = StopStrings(stops)
    out = [watcher.add(piece) for piece in pieces]
    stopped = watcher.stopped
    return [*out, watcher.flush()], stopped


@given(STOPS, st.lists(LETTERS, max_size=6))
def test_letter_by_letter_the_first_stop_that_is_complete_ends_the_text(
    stops: tuple[str, ...], pieces: list[str]
) -> None:
    text = "".join(pieces)
    ends = [place for place in range(len(text) + 1) if any(text[:place].endswith(stop) for stop in stops)]
    out, stopped = feed(stops, list(text))
    assert stopped == bool(ends)
    if not ends:
        assert "".join(out) == text
        return
    complete = text[: ends[0]]
    start = min(complete.index(stop) for stop in stops if stop in complete)
    assert "".join(out) == text[:start]


@given(STOPS, st.lists(LETTERS, max_size=6))
def test_what_is_let_out_has_no_stop_and_is_the_beginning_of_the_text(
    stops: tuple[str, ...], pieces: list[str]
) -> None:
    text = "".join(pieces)
    out, stopped = feed(stops, pieces)
    shown = "".join(out)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    assert stopped or shown == text


@given(STOPS, st.lists(LETTERS, max_size=6), LETTERS)
def test_nothing_that_is_shown_can_become_part_of_a_stop(
    stops: tuple[str, ...], pieces: list[str], more: str
) -> None:
    watcher = StopStrings(stops)
    shown = "".join(watcher.add(piece) for piece in pieces)
    text = "".join(pieces)
    if not watcher.stopped:  # nothing comes after a stop
        watcher.add(more)
        text += more
    if watcher.stopped:
        first = min(text.index(stop) for stop in stops if stop in text)
        assert len(shown) <= first


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        (("END",), ["one E", "N", "D two"], ["one ", "", "", ""]),
        (("END",), ["one E", "N", "two"], ["one ", "", "ENtwo", ""]),
        (("END",), ["one EN"], ["one ", "EN"]),
        (("\n\n", "stop"), ["a\n", "b\ns", "top"], ["a", "\nb\n", "", ""]),
        ((), ["a", "b"], ["a", "b", ""]),
    ],
)
def test_pieces(stops: tuple[str, ...], pieces: list[str], shown: list[str]) -> None:
    assert feed(stops, pieces)[0] == shown


def test_after_a_stop_nothing_comes_out() -> None:
    watcher = StopStrings(("x",))
    assert watcher.add("axb") == "a"
    assert watcher.add("more") == ""
    assert watcher.flush() == ""
