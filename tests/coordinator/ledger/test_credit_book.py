"""Proven of credits: they add up over restarts in whole numbers of any size, a disk that fails loses nothing that was in memory, and
a file that is damaged is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.ledger import credit_book
from folkmoot.coordinator.ledger.credit_book import (
    CREDIT_FILE,
    FORMAT,
    Credit,
    CreditBook,
    CreditFileError,
    read_credits,
)
from folkmoot.ids import NodeId

ONE, TWO = NodeId("ab" * 32), NodeId("cd" * 32)


def test_credits_add_up_over_restarts(tmp_path: Path) -> None:
    book = CreditBook(tmp_path)
    book.add(ONE, 3, 12, 10**15)
    book.add(TWO, 1, 1, 1)
    book.save()
    book.add(ONE, 1, 1, 1)
    again = CreditBook(tmp_path)
    assert again.of(ONE) == Credit(3, 12, 10**15)
    again.add(ONE, 1, 2, 10**18)
    again.save()
    assert read_credits(tmp_path / CREDIT_FILE) == {ONE: Credit(4, 14, 10**15 + 10**18), TWO: Credit(1, 1, 1)}
    assert again.of(NodeId("ef" * 32)) == Credit()
    assert (tmp_path / CREDIT_FILE).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = CreditBook(tmp_path)
    book.add(ONE, 1, 2, 3)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "no room")

    with monkeypatch.context() as failing:
        failing.setattr(credit_book, "write_private", full)
        with pytest.raises(OSError, match="no room"):
            book.save()
    book.save()
    assert CreditBook(tmp_path).of(ONE) == Credit(1, 2, 3)


def document(**nodes: object) -> bytes:
    return json.dumps({"format": FORMAT, "nodes": nodes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "folkmoot-credits/2", "nodes": {}}',
        document(**{ONE: [1, 2]}),
        document(**{ONE: [1, 2, -3]}),
        document(**{ONE: [1, 2, 3.0]}),
        document(**{ONE: [1, True, 3]}),
        document(**{ONE: [1, 2, 1 << 64]}),
        document(**{ONE: "abc"}),
        document(**{ONE.upper(): [1, 2, 3]}),
        document(ab=[1, 2, 3]),
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CREDIT_FILE).write_bytes(content)
    with pytest.raises(CreditFileError) as caught:
        CreditBook(tmp_path)
    assert caught.value.advice


@given(st.binary(max_size=200), st.integers(0, 60))
def test_whatever_is_in_the_file_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, kept: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-credits.json"
    path.write_bytes(document(**{ONE: [1, 2, 3]})[:kept] + tail)
    with contextlib.suppress(CreditFileError):
        read_credits(path)
