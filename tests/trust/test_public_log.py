"""Proven: tile paths and widths are the specification's, a verifier follows an honest log of any size and from any
size to any other, sees every change that a log makes to what it said, and is brought down by nothing that a log may
serve."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.errors import TrustError
from folkmoot.tests.support.memory_log import MemoryLog
from folkmoot.trust import merkle
from folkmoot.trust.audit_statements import VerdictKind, VerdictStatement
from folkmoot.trust.checkpoints import Checkpoint
from folkmoot.trust.keys import BadSignatureError, Identity
from folkmoot.trust.log_entries import (
    KINDS,
    CreditEntry,
    EnrolmentEntry,
    LogEntry,
    LoggedStatement,
    ReceiptsEntry,
    describe,
)
from folkmoot.trust.log_tiles import LogError, Tile, decode_bundle, encode_bundle, tile_in, tiles_in
from folkmoot.trust.log_verifier import LogVerifier
from folkmoot.trust.merkle import ConsistencyError, InclusionError, MerkleError
from folkmoot.trust.signed_notes import NoteError

LOG, NODE = Identity(b"l" * 32), Identity(b"n" * 32)
SIZES = [0, 1, 2, 7, 255, 256, 257, 300, 511, 513]


def some_entries(start: int, end: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, end)]


@functools.cache
def grown() -> tuple[MemoryLog, dict[int, Checkpoint]]:
    """An honest log, and its checkpoint at each of the sizes."""
    log, checkpoints = MemoryLog(LOG), {}
    for size in SIZES:
        checkpoints[size] = log.publish(some_entries(len(log.entries), size))
    return log, checkpoints


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(63, 1234067), "tile/63/x001/x234/067"),
        (Tile(None, 1234067, 8), "tile/entries/x001/x234/067.p/8"),
        (Tile(1, 999, 255), "tile/1/999.p/255"),
        (Tile(0, 1000), "tile/0/x001/000"),
    ],
)
def test_paths_are_the_specifications(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


def test_a_log_of_70000_entries_has_the_tiles_of_the_specification() -> None:
    hashes = [tile for tile in tiles_in(70_000) if tile.level is not None]
    full = {level: sum(tile.level == level and tile.width == 256 for tile in hashes) for level in range(3)}
    assert full == {0: 273, 1: 1, 2: 0}
    assert [tile for tile in hashes if tile.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [tile for tile in tiles_in(256) if tile.level == 1] == [Tile(1, 0, 1)]
    assert tile_in(70_000, 1, 1) == Tile(1, 1, 17)


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_new_tiles_are_those_that_the_old_log_had_not(one: int, other: int) -> None:
    old, new = sorted((one, other))
    assert set(tiles_in(new, old)) == set(tiles_in(new)) - set(tiles_in(old))


@given(st.integers(0, 2**62 - 1), st.integers(1, 256), st.none() | st.integers(0, 63))
def test_a_path_comes_back_as_its_tile(index: int, width: int, level: int | None) -> None:
    assert Tile.parse(Tile(level, index, width).path) == Tile(level, index, width)


BAD_PATHS = [
    "",
    "checkpoint",
    "tile/0/0",
    "tile/00/000",
    "tile/64/000",
    "tile/-1/000",
    "tile/0/000.p/256",
    "tile/0/000.p/0",
    "tile/0/000.p/01",
    "tile/0/x000/001",
    "tile/0/001/000",
    "tile/0/x001",
    "tile/0/../000",
    "tile/0/000\n",
    "/tile/0/000",
    "tile/0/٠٠٠",
    "tile/0/" + "x999/" * 6 + "999",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_other_paths_name_nothing(path: str) -> None:
    with pytest.raises(LogError):
        Tile.parse(path)


@given(st.text(alphabet="tile/0123456789x.pen rs", max_size=40))
def test_whatever_comes_as_a_path_raises_nothing_else(path: str) -> None:
    with contextlib.suppress(LogError):
        assert Tile.parse(path).path == path


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_bundles_survive_their_bytes(entries: list[bytes]) -> None:
    tile = Tile(None, 0, len(entries))
    encoded = encode_bundle(entries)
    assert decode_bundle(tile, encoded) == entries
    for wrong in (encoded[:-1], encoded + b"\0"):
        with pytest.raises(LogError):
            decode_bundle(tile, wrong)


@pytest.mark.parametrize("entries", [[b""] * 257, [bytes(65536)]])
def test_bundles_that_cannot_be_are_not_made(entries: list[bytes]) -> None:
    with pytest.raises(LogError):
        encode_bundle(entries)


@pytest.mark.parametrize("new", SIZES)
@pytest.mark.parametrize("old", SIZES)
def test_an_honest_log_is_followed(old: int, new: int) -> None:
    log, checkpoints = grown()
    verifier = LogVerifier(log.key, log.files.get)
    if old <= new:
        verifier.check_consistency(checkpoints[old], checkpoints[new])
    else:
        with pytest.raises(ConsistencyError):
            verifier.check_consistency(checkpoints[old], checkpoints[new])


@pytest.mark.parametrize("size", SIZES[1:])
def test_each_entry_is_found_where_it_stands(size: int) -> None:
    log, checkpoints = grown()
    verifier = LogVerifier(log.key, log.files.get)
    for index in {0, size // 2, size - 1}:
        verifier.check_inclusion(log.entries[index], index, checkpoints[size])
        with pytest.raises(InclusionError):
            verifier.check_inclusion(b"another", index, checkpoints[size])
    with pytest.raises(InclusionError):
        verifier.check_inclusion(log.entries[0], size, checkpoints[size])


@pytest.mark.parametrize("start", [0, 1, 255, 256, 300, 512, 513])
def test_entries_are_read_in_order(start: int) -> None:
    log, _ = grown()
    verifier = LogVerifier(log.key, log.files.get)
    newest = verifier.checkpoint()
    assert newest.size == 513
    assert list(verifier.entries(newest, start)) == list(enumerate(log.entries))[start:]


def test_partial_tiles_that_are_gone_are_read_from_full_ones() -> None:
    log, checkpoints = grown()
    kept = {
        path: data for path, data in log.files.items() if ".p/" not in path or path.endswith((".p/1", ".p/2"))
    }
    verifier = LogVerifier(log.key, kept.get)
    verifier.check_consistency(checkpoints[7], checkpoints[513])
    assert len(list(verifier.entries(checkpoints[255]))) == 255


def test_a_large_tree_needs_few_tiles() -> None:
    """A log of a million entries, of which only the tiles asked for are made: one entry repeated."""
    leaf, asked = merkle.leaf_hash(b"same"), []

    @functools.cache
    def subtree(leaves: int) -> bytes:
        if leaves == 1:
            return leaf
        left = merkle.split(leaves)
        return merkle.node_hash(subtree(left), subtree(leaves - left))

    def fetch(path: str) -> bytes:
        asked.append(path)
        tile = Tile.parse(path)
        return subtree(256 ** (tile.level or 0)) * tile.width

    size = 1_000_003
    verifier = LogVerifier(grown()[0].key, fetch)
    new, old = (Checkpoint("x", leaves, subtree(leaves)) for leaves in (size, 123_457))
    verifier.check_inclusion(b"same", 654_321, new)
    verifier.check_consistency(old, new)
    assert len(asked) < 12


def tampered(change: Callable[[MemoryLog], object]) -> MemoryLog:
    log = MemoryLog(LOG)
    for size in (257, 300):
        log.publish(some_entries(len(log.entries), size))
    change(log)
    return log


def rewrite_entry(log: MemoryLog) -> None:
    log.files["tile/entries/000"] = encode_bundle([b"forged", *log.entries[1:256]])


def rewrite_later_entry(log: MemoryLog) -> None:
    log.files["tile/entries/000"] = encode_bundle([*log.entries[:100], b"forged", *log.entries[101:256]])


def rewrite_bundle_and_tile(log: MemoryLog) -> None:
    rewrite_entry(log)
    tile = log.files["tile/0/000"]
    log.files["tile/0/000"] = merkle.leaf_hash(b"forged") + tile[32:]


@pytest.mark.parametrize(
    "change",
    [
        rewrite_entry,
        rewrite_later_entry,
        rewrite_bundle_and_tile,
        lambda log: log.files.pop("tile/0/000"),
        lambda log: log.files.pop("tile/entries/001.p/44"),
        lambda log: log.files.update({"tile/0/000": b"short"}),
        lambda log: log.files.update({"tile/1/000.p/1": bytes(32)}),
        lambda log: log.files.update({"tile/entries/000": bytes(9)}),
    ],
    ids=range(8),
)
def test_what_a_log_changes_or_hides_is_seen(change: Callable[[MemoryLog], object]) -> None:
    log = tampered(change)
    verifier = LogVerifier(log.key, log.files.get)
    with pytest.raises((LogError, MerkleError)):
        list(verifier.entries(verifier.checkpoint()))


def test_a_log_that_was_rewritten_is_seen_at_the_next_visit() -> None:
    honest, forged = MemoryLog(LOG), MemoryLog(LOG)
    before = honest.publish(some_entries(0, 300))
    forged.publish([b"forged", *some_entries(1, 400)])
    verifier = LogVerifier(forged.key, forged.files.get)
    with pytest.raises(ConsistencyError):
        verifier.check_consistency(before, verifier.checkpoint())


def test_a_checkpoint_of_another_key_or_none_is_refused() -> None:
    log, other = MemoryLog(LOG), MemoryLog(NODE)
    with pytest.raises(NoteError):
        LogVerifier(log.key, other.files.get).checkpoint()
    with pytest.raises(LogError):
        LogVerifier(log.key, lambda path: None).checkpoint()


@given(st.data(), st.integers(1, 2**40), st.integers(1, 2**40))
@settings(max_examples=60)
def test_whatever_a_log_serves_raises_nothing_else(data: st.DataObject, one: int, other: int) -> None:
    old, new = (Checkpoint("x", size, b"r" * 32) for size in sorted((one, other)))
    width = st.sampled_from([0, 31, 32, 320, 8192])

    def fetch(path: str) -> bytes | None:
        exact = Tile.parse(path).width * 32
        length = data.draw(st.none() | width | st.just(exact) | st.just(exact))
        return None if length is None else b"z" * length

    verifier = LogVerifier(grown()[0].key, fetch)
    with pytest.raises(TrustError):
        verifier.check_inclusion(b"entry", old.size - 1, new)
    with pytest.raises(TrustError):
        list(verifier.entries(new))
    if old != new:
        with pytest.raises(TrustError):
            verifier.check_consistency(old, new)


WIDE = b"w" * 32
STATEMENTS: list[LoggedStatement] = [
    EnrolmentEntry(LOG.public, NODE.public, WIDE, 7),
    ReceiptsEntry(LOG.public, 3, WIDE, 7),
    VerdictStatement(LOG.public, NODE.public, WIDE, WIDE, WIDE, VerdictKind.WRONG, 15000, 7000, 7),
    CreditEntry(LOG.public, NODE.public, 5, 40, 40_000, 7),
]
ENTRIES = [LogEntry.signed(statement, LOG) for statement in STATEMENTS]


def test_every_kind_of_entry_is_here() -> None:
    assert {type(statement) for statement in STATEMENTS} == set(KINDS)


def test_entries_are_described_in_one_line_that_names_nodes_by_their_keys() -> None:
    lines = [describe(statement) for statement in STATEMENTS]
    assert all("\n" not in line for line in lines)
    assert [NODE.public.hex()[:12] in line for line in lines] == [True, False, True, True]
    odd = dataclasses.replace(STATEMENTS[2], kind=9)  # type: ignore[arg-type]  # the third is a verdict
    assert "unknown kind 9" in describe(odd)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry.statement).__name__)
def test_entries_survive_their_bytes_and_need_their_coordinator(entry: LogEntry) -> None:
    again = LogEntry.decode(entry.encode())
    assert again == entry
    again.verify(LOG.public)
    with pytest.raises(LogError):
        again.verify(NODE.public)


@given(st.sampled_from(ENTRIES), st.data())
def test_an_entry_of_which_a_bit_was_flipped_is_refused(entry: LogEntry, data: st.DataObject) -> None:
    encoded = entry.encode()
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    flipped = (int.from_bytes(encoded) ^ 1 << bit).to_bytes(len(encoded))
    with pytest.raises(TrustError):
        LogEntry.decode(flipped).verify(LOG.public)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: type(statement).__name__)
def test_an_entry_signed_by_another_is_refused(statement: LoggedStatement) -> None:
    with pytest.raises(BadSignatureError):
        LogEntry.signed(statement, NODE).verify(LOG.public)


@given(st.binary(max_size=500), st.sampled_from([b"", *(kind.TAG for kind in KINDS)]))
def test_whatever_comes_as_an_entry_raises_nothing_else(tail: bytes, tag: bytes) -> None:
    with contextlib.suppress(LogError):
        assert LogEntry.decode(tag + tail).encode() == tag + tail
