"""Every single bit of some bytes, flipped; and an identity that signs such bytes instead of what it is asked to sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from folkmoot.trust.keys import Identity


def flipped(data: bytes, bit: int) -> bytes:
    """With one bit, counted from the first byte's lowest, flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def every_flip(data: bytes) -> Iterator[bytes]:
    """The bytes with each of their bits flipped in turn."""
    for bit in range(8 * len(data)):
        yield flipped(data, bit)


def accepted_flips(
    data: bytes, accept: Callable[[bytes], object], *refusals: type[Exception], step: int = 1
) -> list[int]:
    """The bits that may be flipped with nobody refusing; what is raised that is no refusal comes through.

    Args:
        data: What is accepted as it is, which is tried too.
        accept: Takes the bytes, and raises when it refuses them.
        refusals: What it raises then.
        step: 1 for all bits, n for every n-th.
    """
    accept(data)
    found = []
    for bit in range(0, 8 * len(data), step):
        try:
            accept(flipped(data, bit))
        except refusals:
            continue
        found.append(bit)
    return found


def signed_with_each_flip(
    statement: bytes, signer: Identity, accept: Callable[[bytes], object], *refusals: type[Exception]
) -> list[int]:
    """The bits of a statement over which a signature is accepted though the bit is flipped: each must belong to what is signed.

    Args:
        accept: Takes a signature over what it believes the statement to be.
    """
    return accepted_flips(statement, lambda data: accept(signer.sign(data)), *refusals)
