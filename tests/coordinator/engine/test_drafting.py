"""Drafts are what the text said before, as many as fared well lately, and never more than the answer has room for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.engine.speculation.draft_length import LONGEST_REST, SHORTEST_REST, DraftLength
from folkmoot.coordinator.engine.speculation.drafter import Drafter
from folkmoot.coordinator.engine.speculation.prompt_lookup import MATCHES, PromptLookup

TEXT = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def by_definition(tokens: list[int], count: int) -> list[int]:
    """A scan for the latest earlier occurrence of the longest end of the text, token after token."""
    for length in MATCHES:
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[-length:]:
                text = list(tokens)
                for step in range(count):
                    text.append(text[place + step])
                return text[len(tokens) :]
    return []


@given(tokens=TEXT, further=TEXT, count=st.integers(1, 9), learnt=st.integers(0, 40))
def test_a_guess_is_what_followed_the_latest_longest_match(
    tokens: list[int], further: list[int], count: int, learnt: int
) -> None:
    lookup = PromptLookup(tokens)
    lookup.learn(min(learnt, len(tokens)))
    assert list(lookup.propose(count)) == by_definition(tokens, count)
    for token in further:
        tokens.append(token)
        assert list(lookup.propose(count)) == by_definition(tokens, count)


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("aaa", "aaaa"),
        ("abab", "abab"),
        ("to be or not to b", "e or"),
        ("x12 y12 z12 y1", "2 z1"),
        ("abcd", ""),
        ("abca", ""),
        ("aa", ""),
        ("a", ""),
    ],
)
def test_periodic_text_goes_on_and_new_text_has_no_guess(text: str, guess: str) -> None:
    assert bytes(PromptLookup(list(text.encode())).propose(4)).decode() == guess


def test_a_guess_grows_by_one_and_shrinks_by_half_of_what_was_wrong() -> None:
    length = DraftLength(6)
    assert length.tokens == 2
    seen = []
    for accepted in (2, 3, 4, 5, 6, 6, 4, 0, 0, 1):
        length.fared(length.tokens, accepted)
        seen.append(length.tokens)
    assert seen == [3, 4, 5, 6, 6, 6, 5, 2, 1, 2]


def test_guesses_cut_short_for_lack_of_room_say_nothing_of_longer_ones() -> None:
    length = DraftLength(6)
    length.fared(1, 1)
    length.fared(0, 0)
    assert length.tokens == 2


def test_misses_bring_longer_and_longer_rests_and_success_ends_them() -> None:
    length = DraftLength(4)
    length.fared(2, 0)
    rests = []
    for _ in range(7):
        assert length.tokens == 1
        length.fared(1, 0)
        rest = 0
        while length.tokens == 0:
            length.fared(0, 0)
            rest += 1
        rests.append(rest)
    assert rests == [4, 8, 16, 32, 64, 64, 64]
    assert (rests[0], rests[-1]) == (SHORTEST_REST, LONGEST_REST)
    length.fared(1, 1)
    assert length.tokens == 2
    length.fared(2, 0)
    length.fared(1, 0)
    for _ in range(SHORTEST_REST):
        assert length.tokens == 0
        length.fared(0, 0)
    assert length.tokens == 1


@given(most=st.integers(1, 9), chances=st.lists(st.integers(0, 9), max_size=60))
def test_a_length_stays_within_its_limits(most: int, chances: list[int]) -> None:
    length = DraftLength(most)
    for chance in chances:
        assert 0 <= length.tokens <= most
        length.fared(length.tokens, min(chance, length.tokens))


@pytest.mark.parametrize(("longest", "count"), [(30, 2), (7, 2), (6, 1), (5, 0), (4, 0)])
def test_a_draft_leaves_room_for_the_token_after_it(longest: int, count: int) -> None:
    assert len(Drafter([1, 1, 1, 1], longest=longest, most=4).propose(4)) == count


def test_a_silent_drafter_proposes_nothing() -> None:
    drafter = Drafter([1, 1, 1, 1], longest=99, most=4)
    assert drafter.propose(1) == (1,)
    drafter.silence()
    assert drafter.propose(1) == ()
