"""Proven: trees and proofs are those of Certificate Transparency's published vectors, every honest proof holds, and a
proof that was changed in any way, or is used for anything else, does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.trust import merkle
from folkmoot.trust.merkle import ConsistencyError, InclusionError, MerkleError

ENTRIES = [
    bytes.fromhex(digits)
    for digits in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The leaves that the reference implementations of RFC 6962 are tested with."""
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {
    (0, 1): [],
    (0, 8): [A, B, C],
    (5, 8): [D, E, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], B, D],
}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, C], (6, 8): [F, E, ROOTS[4]], (2, 5): [B, D]}
HASHES = st.binary(min_size=32, max_size=32)


def tree(size: int) -> list[bytes]:
    return [merkle.leaf_hash(index.to_bytes(4, "big")) for index in range(size)]


def hexadecimal(proof: Sequence[bytes]) -> list[str]:
    return [part.hex() for part in proof]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int) -> None:
    assert hexadecimal(merkle.inclusion_proof(LEAVES[:size], index)) == INCLUSION[index, size]


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old: int, new: int) -> None:
    assert hexadecimal(merkle.consistency_proof(LEAVES[:new], old)) == CONSISTENCY[old, new]


@pytest.mark.parametrize("size", range(1, 35))
def test_every_honest_proof_holds(size: int) -> None:
    leaves = tree(size)
    whole = merkle.root(leaves)
    for index in range(size):
        merkle.verify_inclusion(leaves[index], index, size, merkle.inclusion_proof(leaves, index), whole)
        part = merkle.root(leaves[: index + 1])
        merkle.verify_consistency(index + 1, part, size, whole, merkle.consistency_proof(leaves, index + 1))
    merkle.verify_consistency(0, merkle.EMPTY_ROOT, size, whole, [])
    assert merkle.inclusion_proofs(leaves) == [merkle.inclusion_proof(leaves, index) for index in range(size)]


@given(st.data(), st.integers(1, 40))
def test_a_changed_inclusion_proof_is_refused(data: st.DataObject, size: int) -> None:
    leaves = tree(size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(leaves, index)
    whole = merkle.root(leaves)
    wrong = [
        (leaves[index], index, size, [*proof, data.draw(HASHES)], whole),
        (data.draw(HASHES), index, size, proof, whole),
        (leaves[index], index, size, proof, data.draw(HASHES)),
        (leaves[index], index + size, size, proof, whole),
        (leaves[index], -1, size, proof, whole),
    ]
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(proof[place]) ^ 1 << bit).to_bytes(32)
        wrong += [
            (leaves[index], index, size, proof[:place] + proof[place + 1 :], whole),
            (leaves[index], index, size, [*proof[:place], flipped, *proof[place + 1 :]], whole),
            (leaves[index], index, size, [*proof[:place], proof[place][:31], *proof[place + 1 :]], whole),
            (leaves[index], (index + 1) % size, size, proof, whole),
        ]
    for leaf, at, of, parts, top in wrong:
        with pytest.raises(InclusionError):
            merkle.verify_inclusion(leaf, at, of, parts, top)


@given(st.data(), st.integers(2, 40))
def test_a_changed_consistency_proof_is_refused(data: st.DataObject, size: int) -> None:
    leaves = tree(size)
    old = data.draw(st.integers(1, size - 1))
    proof = merkle.consistency_proof(leaves, old)
    before, after = merkle.root(leaves[:old]), merkle.root(leaves)
    place = data.draw(st.integers(0, len(proof) - 1))
    flipped = (int.from_bytes(proof[place]) ^ 1 << data.draw(st.integers(0, 255))).to_bytes(32)
    wrong = [
        (old, before, size, after, [*proof, data.draw(HASHES)]),
        (old, before, size, after, proof[:place] + proof[place + 1 :]),
        (old, before, size, after, [*proof[:place], flipped, *proof[place + 1 :]]),
        (old, before, size, after, []),
        (old, data.draw(HASHES), size, after, proof),
        (old, before, size, data.draw(HASHES), proof),
        (size, after, old, before, proof),
        (size, before, size, after, []),
        (0, before, size, after, []),
    ]
    for arguments in wrong:
        with pytest.raises(ConsistencyError):
            merkle.verify_consistency(*arguments)


@given(st.integers(-3, 2**64), st.integers(-3, 2**64), st.lists(st.binary(max_size=40), max_size=70))
def test_whatever_comes_as_a_proof_raises_nothing_else(index: int, size: int, proof: list[bytes]) -> None:
    with pytest.raises(MerkleError):
        merkle.verify_inclusion(b"x" * 32, index, size, proof, b"y" * 32)
    with pytest.raises(MerkleError):
        merkle.verify_consistency(index, b"x" * 32, size, b"y" * 32, proof)


def test_a_proof_that_stops_at_the_hash_asked_for_is_too_short() -> None:
    leaf = tree(1)[0]
    with pytest.raises(InclusionError):
        merkle.verify_inclusion(leaf, 0, 2, [], leaf)
    with pytest.raises(ConsistencyError):
        merkle.verify_consistency(2, leaf, 3, leaf, [])


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(InclusionError):
        merkle.inclusion_proof(tree(size), index)


@pytest.mark.parametrize("old", [0, 4])
def test_there_is_no_proof_from_a_tree_that_is_no_part(old: int) -> None:
    with pytest.raises(ConsistencyError):
        merkle.consistency_proof(tree(3), old)
