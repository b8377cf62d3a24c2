"""Merkle trees as Certificate Transparency has them.

Guarantees: hashes, proofs and checks are those of RFC 6962 section 2.1 and RFC 9162 sections 2.1.3 and 2.1.4:
SHA-256, a leaf hashed behind 0x00 and a node behind 0x01, so that neither can pass for the other. A proof that is too
short, too long, or has a hash of the wrong width is refused. Which subtrees a proof consists of is a matter of
numbers alone (`inclusion_ranges`, `consistency_ranges`), so proofs can be made from whatever keeps the hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from ..errors import TrustError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Range = tuple[int, int]
"""The leaves from the first to before the second."""


class MerkleError(TrustError):
    """A Merkle proof does not hold."""


class InclusionError(MerkleError):
    """A proof does not show that a leaf is in a tree."""


class ConsistencyError(MerkleError):
    """A proof does not show that a tree grew from another."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its children's."""
    return hashlib.sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2: how many leaves are in the left subtree."""
    return 1 << (size - 1).bit_length() - 1


def root(leaves: Sequence[bytes]) -> bytes:
    """The hash of a tree over leaf hashes; `EMPTY_ROOT` over none."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        level = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
    return level[0]


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The subtrees whose hashes prove that leaf `index` is in a tree of `size` leaves, in the proof's order.

    Raises:
        InclusionError: when the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise InclusionError(f"a tree of {size} leaves has no leaf {index}")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, new_size: int) -> list[Range]:
    """The subtrees whose hashes prove that a tree of `new_size` leaves begins with one of `old_size`, in the proof's order.

    Raises:
        ConsistencyError: when the sizes are not 0 < old <= new.
    """
    if not 0 < old_size <= new_size:
        raise ConsistencyError(f"there is no proof from {old_size} to {new_size} leaves")
    ranges = []
    start, end, whole = 0, new_size, True
    while old_size != end:
        middle = start + split(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree over these leaf hashes.

    Raises:
        InclusionError: when there is no such leaf.
    """
    return [root(leaves[start:end]) for start, end in inclusion_ranges(index, len(leaves))]


def inclusion_proofs(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """`inclusion_proof` of every leaf, for little more than the root costs."""
    proofs: list[list[bytes]] = [[] for _ in leaves]
    level, span = list(leaves), 1
    while len(level) > 1:
        for index, proof in enumerate(proofs):
            beside = index // span ^ 1
            if beside < len(level):
                proof.append(level[beside])
        odd = level[-1:] if len(level) % 2 else []
        level = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)] + odd
        span *= 2
    return proofs


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over these leaf hashes begins with the one over the first `old_size` of them.

    Raises:
        ConsistencyError: when `old_size` is none of 1 to their number.
    """
    return [root(leaves[start:end]) for start, end in consistency_ranges(old_size, len(leaves))]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree: bytes) -> None:
    """Returns when the proof shows that a leaf hash is at `index` of the tree of `size` leaves with hash `tree`.

    Raises:
        InclusionError: when it does not.
    """
    if not 0 <= index < size:
        raise InclusionError(f"a tree of {size} leaves has no leaf {index}")
    if any(len(part) != HASH_BYTES for part in (leaf, tree, *proof)):
        raise InclusionError(f"a hash in the proof has not {HASH_BYTES} bytes")
    place, last, found = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise InclusionError("the proof is too long")
        if place & 1 or place == last:
            found = node_hash(part, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, part)
        place, last = place >> 1, last >> 1
    if last:
        raise InclusionError("the proof is too short")
    if found != tree:
        raise InclusionError("the proof leads to another tree")


def verify_consistency(
    old_size: int, old_tree: bytes, new_size: int, new_tree: bytes, proof: Sequence[bytes]
) -> None:
    """Returns when the proof shows that the new tree begins with all leaves of the old one.

    From an empty tree every tree has grown: that needs an empty proof.

    Raises:
        ConsistencyError: when it does not.
    """
    if any(len(part) != HASH_BYTES for part in (old_tree, new_tree, *proof)):
        raise ConsistencyError(f"a hash in the proof has not {HASH_BYTES} bytes")
    if not 0 <= old_size <= new_size:
        raise ConsistencyError(f"a tree cannot grow from {old_size} to {new_size} leaves")
    if (old_size == 0 and old_tree != EMPTY_ROOT) or (new_size == 0 and new_tree != EMPTY_ROOT):
        raise ConsistencyError("a tree without leaves has another hash")
    if old_size in (0, new_size):
        if proof:
            raise ConsistencyError("the proof is too long")
        if old_size and old_tree != new_tree:
            raise ConsistencyError("two trees of one size differ")
        return
    _follow_growth(old_size, old_tree, new_size, new_tree, proof)


def _follow_growth(
    old_size: int, old_tree: bytes, new_size: int, new_tree: bytes, proof: Sequence[bytes]
) -> None:
    """RFC 9162 section 2.1.4.2, for 0 < old_size < new_size."""
    parts = [old_tree, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    if not parts:
        raise ConsistencyError("the proof is too short")
    old = new = parts[0]
    for part in parts[1:]:
        if last == 0:
            raise ConsistencyError("the proof is too long")
        if place & 1 or place == last:
            old, new = node_hash(part, old), node_hash(part, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, part)
        place, last = place >> 1, last >> 1
    if last:
        raise ConsistencyError("the proof is too short")
    if old != old_tree or new != new_tree:
        raise ConsistencyError("the log's new tree does not begin with its old one")
