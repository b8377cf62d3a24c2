"""The store on its own: what it keeps, what it removes, what it says of a disk that fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from folkmoot.disk import DiskError, DiskFullError, disk_errors
from folkmoot.errors import CapacityError
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.weight_memory import has_huge_pages
from folkmoot.node.store import DamagedExpertError, ExpertStore, NoMemoryError
from folkmoot.tests.support.bare_experts import BareExperts


@pytest.fixture
def store(tmp_path: Path) -> ExpertStore:
    return ExpertStore(tmp_path, 1 << 30)


def put(store: ExpertStore, experts: BareExperts, number: int) -> str:
    """Stores one expert whole; returns its digest."""
    key = experts.keys[number]
    digest = experts.manifest.experts[key].sha256
    partial = store.partial(digest, experts.expert_bytes)
    partial.write(0, experts.blobs[key])
    partial.complete()
    return digest


def test_an_expert_is_mapped_as_it_was_stored(store: ExpertStore, experts: BareExperts) -> None:
    digest, spec = put(store, experts, 0), experts.manifest.specs[0]
    assert store.has(digest, spec.expert_bytes)
    assert not store.has(digest, spec.expert_bytes + 1)
    expert = store.load(digest, spec)
    flat = torch.cat([expert.weights[role].flatten() for role in ("gate", "up", "down")])
    assert flat.view(torch.uint8).numpy().tobytes() == experts.blobs[experts.keys[0]]


def test_an_expert_outlives_the_file_it_was_mapped_from(
    store: ExpertStore, experts: BareExperts, tmp_path: Path
) -> None:
    digest = put(store, experts, 0)
    expert = store.load(digest, experts.manifest.specs[0])
    before = expert.weights["gate"].clone()
    (tmp_path / digest[:2] / digest).unlink()
    assert torch.equal(expert.weights["gate"], before)


@pytest.fixture(scope="module")
def large() -> BareExperts:
    """Experts that fill huge pages."""
    return BareExperts.make(layers=(1,), experts=1, hidden=512, intermediate=1024)


def test_a_large_expert_is_in_memory_of_its_own(
    store: ExpertStore, large: BareExperts, tmp_path: Path
) -> None:
    digest, spec = put(store, large, 0), large.manifest.specs[0]
    expert = store.load(digest, spec)
    (tmp_path / digest[:2] / digest).write_bytes(bytes(spec.expert_bytes))
    flat = torch.cat([expert.weights[role].flatten() for role in ("gate", "up", "down")])
    kept = flat.view(torch.uint8).numpy().tobytes() == large.blobs[large.keys[0]]
    assert kept == has_huge_pages(), "what was hashed stays, whatever becomes of the file"


def test_what_computes_readies_an_expert_before_anybody_sees_it(tmp_path: Path, large: BareExperts) -> None:
    seen: list[Expert] = []
    store = ExpertStore(tmp_path, 1 << 30, seen.append)
    digest, spec = put(store, large, 0), large.manifest.specs[0]
    assert store.load(digest, spec) is seen[0]
    (tmp_path / digest[:2] / digest).write_bytes(bytes(spec.expert_bytes))
    with pytest.raises(DamagedExpertError):
        store.load(digest, spec)
    assert len(seen) == 1, "what is not the expert's is never readied"


def test_no_memory_to_ready_an_expert_is_said(tmp_path: Path, large: BareExperts) -> None:
    def fail(expert: Expert) -> None:
        raise MemoryError

    store = ExpertStore(tmp_path, 1 << 30, fail)
    with pytest.raises(NoMemoryError, match="no memory"):
        store.load(put(store, large, 0), large.manifest.specs[0])


@pytest.mark.parametrize("damage", ["a byte", "the end", "everything"])
def test_a_large_expert_that_is_damaged_is_removed(
    store: ExpertStore, large: BareExperts, tmp_path: Path, damage: str
) -> None:
    digest = put(store, large, 0)
    path = tmp_path / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"a byte": bytes(data), "the end": bytes(data[:-1]), "everything": b""}[damage])
    with pytest.raises(DamagedExpertError, match="bytes of its name"):
        store.load(digest, large.manifest.specs[0])
    assert not path.exists()


def test_without_free_memory_a_large_expert_stays_mapped(
    store: ExpertStore, large: BareExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: int) -> memoryview:
        raise MemoryError(f"no memory for {size} bytes of weights")

    monkeypatch.setattr("folkmoot.node.store.weight_memory", refuse)
    digest = put(store, large, 0)
    expert = store.load(digest, large.manifest.specs[0])
    flat = torch.cat([expert.weights[role].flatten() for role in ("gate", "up", "down")])
    assert flat.view(torch.uint8).numpy().tobytes() == large.blobs[large.keys[0]]


def test_a_missing_file_is_named(store: ExpertStore, experts: BareExperts) -> None:
    with pytest.raises(DamagedExpertError, match="missing"):
        store.load("ab" * 32, experts.manifest.specs[0])


def test_a_partial_file_keeps_its_bytes_unless_it_has_too_many(store: ExpertStore) -> None:
    partial = store.partial("ab" * 32, 10)
    partial.write(0, b"12345678")
    partial.close()
    partial.close()
    for size, kept in ((10, 8), (7, 0)):
        again = store.partial("ab" * 32, size)
        assert again.length == kept
        again.close()


def test_a_failed_write_leaves_what_was_there(store: ExpertStore, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = store.partial("ab" * 32, 10)
    partial.write(0, b"123")
    real = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) == 1:
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, data[:1])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError):
        partial.write(3, b"45")
    monkeypatch.undo()
    partial.write(3, b"4567890")
    partial.complete()
    assert store.has("ab" * 32, 10)


def test_room_is_made_from_the_longest_unused_and_never_from_what_anybody_reserved(
    store: ExpertStore, experts: BareExperts, tmp_path: Path
) -> None:
    digests = [put(store, experts, number) for number in range(4)]
    for age, digest in enumerate(digests):
        os.utime(tmp_path / digest[:2] / digest, (1000 + age, 1000 + age))
    size = experts.expert_bytes
    assert store.stored_bytes() == 4 * size
    small = ExpertStore(tmp_path, 4 * size)
    small.reserve("one link", {digests[0]: size})
    assert small.stored_bytes() == 4 * size
    small.reserve("one link", {digests[0]: size, "ab" * 32: size})
    assert [store.has(digest, size) for digest in digests] == [True, False, True, True]
    small.reserve("another link", {digests[2]: size, digests[0]: size, "cd" * 32: size})
    assert [store.has(digest, size) for digest in digests] == [True, False, True, False]
    assert small.clear() == 0
    small.release("one link")
    assert small.clear() == 0
    small.release("another link")
    assert small.clear() == 2 * size
    assert store.stored_bytes() == 0


def test_a_file_that_is_renamed_while_room_is_made_is_passed_over(
    store: ExpertStore, experts: BareExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that ends between the listing of its folder and the look at its file takes its `.partial` away."""
    digests = [put(store, experts, number) for number in range(2)]
    growing = store.partial("ab" * 32, 10)
    growing.write(0, b"1234567890")
    real = Path.stat

    def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name.endswith(".partial") and real(path):
            growing.complete()
        return real(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    store.reserve("a link", dict.fromkeys(digests, experts.expert_bytes))
    monkeypatch.undo()
    assert store.has("ab" * 32, 10)


@pytest.mark.parametrize("removal", ["of a damaged file", "to make room", "of a partial file"])
def test_a_removal_that_the_disk_refuses_is_the_disks_error(
    store: ExpertStore, experts: BareExperts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removal: str
) -> None:
    digest = put(store, experts, 0)
    (tmp_path / digest[:2] / digest).write_bytes(b"damaged")
    partial = store.partial("ab" * 32, 10)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DiskError, match="Read-only"):
        match removal:
            case "of a damaged file":
                store.load(digest, experts.manifest.specs[0])
            case "to make room":
                store.clear()
            case _:
                partial.discard()
    partial.close()


def test_loading_counts_as_use(store: ExpertStore, experts: BareExperts, tmp_path: Path) -> None:
    digests = [put(store, experts, number) for number in range(2)]
    for digest in digests:
        os.utime(tmp_path / digest[:2] / digest, (1000, 1000))
    store.load(digests[0], experts.manifest.specs[0])
    ExpertStore(tmp_path, experts.expert_bytes).reserve("a link", {})
    assert [store.has(digest, experts.expert_bytes) for digest in digests] == [True, False]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EIO, DiskError),
        (errno.EROFS, DiskError),
    ],
)
def test_the_disks_errors_have_names(code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="/some/where.*--state DIR"), disk_errors(Path("/some/where")):
        raise OSError(code, os.strerror(code))
    assert issubclass(DiskFullError, CapacityError)
