"""A partial file knows what it has, in whatever order it came, after any end and whatever became of its journal."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.node.partial import BLOCK_BYTES, Partial, journal_of
from folkmoot.node.sources.spans import Span

SIZE = 64


def opened(folder: Path, size: int = SIZE) -> Partial:
    return Partial(folder / "x.partial", folder / "x", size)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 20), st.booleans()), max_size=10))
def test_what_was_written_is_there_and_is_known(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("partial")
    expected: dict[int, int] = {}
    partial = opened(folder)
    for number, (start, length, reopen) in enumerate(writes):
        data = bytes([number + 1]) * min(length, SIZE - start)
        partial.write(start, data)
        expected |= dict(enumerate(data, start))
        if reopen:
            partial.close()
            partial = opened(folder)
        missing = {byte for span in partial.missing() for byte in range(*span)}
        assert missing == set(range(SIZE)) - expected.keys()
    partial.close()
    data = (folder / "x.partial").read_bytes()
    assert all(data[place] == byte for place, byte in expected.items())


def test_without_closing_all_but_a_block_is_known(tmp_path: Path) -> None:
    size = 4 * BLOCK_BYTES
    partial = opened(tmp_path, size)
    step = BLOCK_BYTES // 8 + 1
    for start in range(0, size - step, step):
        partial.write(start, bytes(step))
        with closing(opened(tmp_path, size)) as known:  # as after a kill: nothing was closed
            assert partial.length - known.length < BLOCK_BYTES
            assert known.length <= partial.length
    partial.close()


@pytest.mark.parametrize("torn", range(1, 16))
def test_a_torn_journal_loses_its_last_record_alone(tmp_path: Path, torn: int) -> None:
    partial = opened(tmp_path)
    partial.write(0, b"first")
    partial.write(40, b"second")
    partial.close()
    journal = journal_of(tmp_path / "x.partial")
    journal.write_bytes(journal.read_bytes()[:-torn])
    again = opened(tmp_path)
    assert again.missing() == (Span(5, SIZE),)
    again.write(20, b"third")
    again.close()
    with closing(opened(tmp_path)) as last:
        assert last.missing() == (Span(5, 20), Span(25, SIZE))


@pytest.mark.parametrize("damage", ["no journal", "no bytes", "shorter", "longer than it may be", "nonsense"])
def test_a_journal_that_does_not_fit_counts_for_nothing(tmp_path: Path, damage: str) -> None:
    partial = opened(tmp_path)
    partial.write(0, bytes(50))
    partial.close()
    data, journal = tmp_path / "x.partial", journal_of(tmp_path / "x.partial")
    match damage:
        case "no journal":
            journal.unlink()
        case "no bytes":
            data.unlink()
        case "shorter":
            data.write_bytes(bytes(20))
        case "longer than it may be":
            data.write_bytes(bytes(SIZE + 1))
        case _:
            journal.write_bytes(b"\xff" * 32)
    again = opened(tmp_path)
    assert (again.length, again.inherited) == (0, False)
    again.write(0, bytes(range(SIZE)))
    again.complete()
    assert (tmp_path / "x").read_bytes() == bytes(range(SIZE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
