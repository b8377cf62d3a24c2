"""Proven: an invite comes back as it was given out, however it was wrapped or cased; every mistyped, missing, doubled or
swapped character is noticed; and every refusal says what to do."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import UsageError
from folkmoot.trust.invite import (
    PREFIX,
    IncompleteInviteError,
    Invite,
    InviteError,
    MistypedInviteError,
    NotAnInviteError,
)
from folkmoot.trust.keys import Identity, fingerprint

HOSTS = ["127.0.0.1", "::1", "fe80::1%eth0", "folk.example.org", "a", "under_score.lan", "x" * 255]
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def an_invite(host: str = "moot.example.org", port: int = 7443) -> Invite:
    return Invite(host, port, bytes(range(32)), bytes(range(100, 116)))


TEXT = an_invite().encode()


@given(
    st.sampled_from(HOSTS),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
)
def test_an_invite_comes_back(host: str, port: int, pinned: bytes, secret: bytes) -> None:
    invite = Invite(host, port, pinned, secret)
    text = invite.encode()
    assert Invite.parse(text) == invite
    assert text.startswith(PREFIX)
    assert set(text[len(PREFIX) :]) <= set(ALPHABET), (
        "nothing that looks alike, and one double click selects it"
    )


def test_the_form_is_that_of_version_one() -> None:
    """A change here is a change of the invites that people hold: it needs another prefix."""
    assert an_invite("::1").encode() == (
        "folkmoot1-3m9g00820c20a1g7104gm2rc1m70y40h289h858p2wc1j6gv3gehw7v"
        "4cnk6et39d9nprvbedxr72wkk78x32ajhb3hg"
    )


@given(
    st.lists(st.integers(0, len(TEXT)), max_size=8),
    st.sampled_from([" ", "\n", "\r\n", "\t", "\u00a0", "\n  "]),
)
def test_white_space_does_not_matter(places: list[int], space: str) -> None:
    wrapped = TEXT
    for place in sorted(places, reverse=True):
        wrapped = wrapped[:place] + space + wrapped[place:]
    assert Invite.parse(wrapped) == an_invite()


def test_letter_case_and_look_alikes_do_not_matter() -> None:
    assert Invite.parse(TEXT.upper()) == an_invite()
    body = TEXT[len(PREFIX) :]
    assert Invite.parse(PREFIX + body.replace("0", "O").replace("1", "l")) == an_invite()
    assert Invite.parse(PREFIX + body.replace("1", "I")) == an_invite()


@pytest.mark.parametrize("host", ["a" * length for length in range(1, 6)])
def test_every_single_wrong_character_is_noticed(host: str) -> None:
    """The checksum is linear, so what holds for one invite of each alignment holds for all."""
    text = an_invite(host).encode()
    for place in range(len(PREFIX), len(text)):
        for wrong in ALPHABET + "u!-é":
            if wrong != text[place]:
                with pytest.raises(MistypedInviteError):
                    Invite.parse(text[:place] + wrong + text[place + 1 :])


@pytest.mark.parametrize("host", ["a" * length for length in range(1, 6)])
def test_swapped_missing_and_doubled_characters_are_noticed(host: str) -> None:
    text = an_invite(host).encode()
    for place in range(len(PREFIX), len(text)):
        changes = [text[:place] + text[place + 1 :], text[: place + 1] + text[place:]]
        if text[place : place + 1] != text[place + 1 : place + 2] and place + 1 < len(text):
            changes.append(text[:place] + text[place + 1] + text[place] + text[place + 2 :])
        for changed in changes:
            with pytest.raises((MistypedInviteError, IncompleteInviteError)):
                Invite.parse(changed)


@given(st.integers(1, len(TEXT) - 1))
def test_an_invite_cut_short_is_noticed(keep: int) -> None:
    with pytest.raises((MistypedInviteError, IncompleteInviteError)) as caught:
        Invite.parse(TEXT[:keep])
    assert caught.value.advice


@pytest.mark.parametrize("place", range(len(PREFIX)))
def test_a_wrong_prefix_is_noticed(place: int) -> None:
    with pytest.raises(NotAnInviteError) as caught:
        Invite.parse(TEXT[:place] + "?" + TEXT[place + 1 :])
    assert PREFIX in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "hello", "http://127.0.0.1:8000", "-" * 100, TEXT[len(PREFIX) :]])
def test_what_is_no_invite_at_all_is_refused(text: str) -> None:
    with pytest.raises(NotAnInviteError) as caught:
        Invite.parse(text)
    assert caught.value.advice


def test_an_invite_of_a_later_version_is_named_as_such() -> None:
    with pytest.raises(NotAnInviteError, match="version") as caught:
        Invite.parse(TEXT.replace("folkmoot1-", "folkmoot2-"))
    assert "update" in caught.value.advice


@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_else(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(InviteError) as caught:
            Invite.parse(candidate)
        assert isinstance(caught.value, UsageError)


@given(st.text(string.ascii_lowercase + string.digits, min_size=80, max_size=600))
def test_arbitrary_characters_of_the_alphabet_raise_nothing_else(body: str) -> None:
    with pytest.raises(InviteError):
        Invite.parse(PREFIX + body)


def test_an_endless_invite_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(MistypedInviteError, match="too long"):
        Invite.parse(PREFIX + "0" * 1_000_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "two words"},
        {"host": "[::1]"},
        {"host": "host/path"},
        {"host": "moot.example.org:7440"},
        {"host": "203.0.113.7:7440"},
        {"host": "bücher.example"},
        {"host": "x" * 256},
        {"host": "a\n"},
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {"fingerprint": bytes(31)},
        {"join_secret": bytes(17)},
    ],
)
def test_an_invite_that_could_not_be_used_is_not_made(wrong: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"host": "a", "port": 1, "fingerprint": bytes(32), "join_secret": bytes(16)}
    with pytest.raises(InviteError):
        Invite(**(parts | wrong))


def test_addresses_are_written_as_channels_want_them() -> None:
    assert an_invite("::1", 9).address == "[::1]:9"
    assert an_invite("moot.example.org", 9).address == "moot.example.org:9"


def test_an_invite_names_one_coordinator() -> None:
    coordinator, other = Identity.generate(), Identity.generate()
    invite = Invite("a", 1, fingerprint(coordinator.public), bytes(16))
    assert invite.names(coordinator.public)
    assert not invite.names(other.public)


def test_an_invite_prints_no_secret() -> None:
    invite = Invite("a", 1, bytes(32), b"sixteen secret b")
    assert "sixteen secret b" not in repr(invite)
