"""The coordinators that a node remembers: told by their keys, named once each, and kept from other eyes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from folkmoot.errors import TrustError
from folkmoot.node.joined import MOST_COORDINATORS, JoinedBook, JoinError, UnknownCoordinatorError, find
from folkmoot.state_lock import StateError
from folkmoot.trust.invite import Invite, InviteError


def invite(number: int, host: str = "moot.example", secret: int = 0) -> str:
    return Invite(host, 7440, bytes([number]) * 32, bytes([secret]) * 16).encode()


def test_several_are_remembered_in_order_for_the_owner_alone(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path / "state")
    assert book.all() == ()
    first, second, third = (
        book.add(invite(1)),
        book.add(invite(2)),
        book.add(invite(3, "other.example"), "paris"),
    )
    assert [one.name for one in JoinedBook(tmp_path / "state").all()] == [
        "moot.example",
        "moot.example-2",
        "paris",
    ]
    assert book.all() == (first, second, third)
    assert stat.S_IMODE(book.path.stat().st_mode) == 0o600
    assert [file.name for file in book.path.parent.iterdir()] == [book.path.name]


def test_joining_again_takes_the_newer_invite_and_keeps_the_name(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path)
    first = book.add(invite(1), "london")
    again = book.add(invite(1, "moved.example", secret=9))
    assert (again.name, again.joined_unix_s) == ("london", first.joined_unix_s)
    assert book.all() == (again,)
    assert again.address == "moved.example:7440"
    assert book.add(invite(1), "thames").name == "thames"
    assert len(book.all()) == 1


def test_names_are_one_coordinators_only(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path)
    book.add(invite(1), "london")
    with pytest.raises(JoinError, match="another coordinator is called 'london'.*--as"):
        book.add(invite(2), "london")
    with pytest.raises(JoinError, match="no name"):
        book.add(invite(2), "lon\ndon")
    with pytest.raises(InviteError):
        book.add("folkmoot1-x")
    assert len(book.all()) == 1


def test_one_is_left_by_name_or_address(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path)
    book.add(invite(1), "london")
    book.add(invite(2), "paris")
    with pytest.raises(UnknownCoordinatorError, match="'rome' was joined: .*london, paris"):
        book.remove("rome")
    with pytest.raises(UnknownCoordinatorError):
        find(book.all(), "moot.example:7440")
    assert book.remove("london").key == bytes([1]) * 32
    assert book.remove("moot.example:7440").name == "paris"
    assert book.all() == ()


def test_there_is_an_end_to_it(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path)
    for number in range(MOST_COORDINATORS):
        book.add(invite(number))
    with pytest.raises(JoinError, match="node leave"):
        book.add(invite(200))
    book.add(invite(0, secret=3))


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"name": "x"}]', '[{"name": "x", "invite": "y", "joined_unix_s": 1}]']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    book = JoinedBook(tmp_path)
    book.path.write_text(content)
    book.path.chmod(0o600)
    with pytest.raises(StateError, match=r"coordinators\.json is damaged: delete it"):
        book.all()


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    book = JoinedBook(tmp_path)
    book.add(invite(1))
    book.path.chmod(0o644)
    with pytest.raises(TrustError, match="others may read"):
        book.all()
