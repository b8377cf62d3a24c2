"""What it costs to sign results: each by itself, or by the root of a Merkle tree over several.

Guarantees: one process and one thread; node's and coordinator's work together, as both happen once for each result; every
signature is made and checked; of several rounds the fastest counts, since whatever else runs on the machine only adds.

Three ways are compared. *Each*: a result's statement is signed and checked by itself. *Root a layer*: the results of one node in
one layer share a root; that is one result, since a node gets one frame a layer, and it is the only root that can be checked before
the trunk goes on. *Root a step*: one root at the end of a step, when all but the last layer's results have been used already.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from ..trust import merkle
from ..trust.keys import Identity, VerifyingKey
from ..trust.statements import ResultStatement

RESULTS: Final = (1, 2, 4, 8, 30)
ROUNDS: Final = 7
ROUND_S: Final = 0.15
ROOT_STATEMENT: Final = b"folkmoot/v1/root".ljust(32, b"\0") + bytes(3 * 32 + 3 * 8)
"""As wide as a statement must be that chains a session's roots: parties, session, number, count, previous."""


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds that a step costs on one core, for so many results."""

    results: int
    each_us: float
    root_a_layer_us: float
    root_a_step_us: float


def statements(count: int, step: int) -> list[bytes]:
    """The results of a step, as they are signed."""
    tasks = (sha256(step.to_bytes(8) + layer.to_bytes(8)).digest() for layer in range(count))
    return [ResultStatement(task, task, 0).encode() for task in tasks]


def signed_each(identity: Identity, key: VerifyingKey, results: list[bytes]) -> None:
    """Each statement is digested, signed and checked."""
    for statement in results:
        sha256(statement).digest()
        key.verify(identity.sign(statement), statement)


def signed_by_root(identity: Identity, key: VerifyingKey, results: list[bytes]) -> None:
    """Both ends make the tree, since neither believes the other; one signature is made and checked."""
    made = merkle.root([merkle.leaf_hash(statement) for statement in results])
    signature = identity.sign(ROOT_STATEMENT + made)
    found = merkle.root([merkle.leaf_hash(statement) for statement in results])
    key.verify(signature, ROOT_STATEMENT + found)


def signed_by_layers(identity: Identity, key: VerifyingKey, results: list[bytes]) -> None:
    """A root for each layer: for each result."""
    for statement in results:
        signed_by_root(identity, key, [statement])


def fastest_us(
    way: Callable[[Identity, VerifyingKey, list[bytes]], None], count: int, round_s: float
) -> float:
    """Microseconds that a step takes in the fastest of several rounds."""
    identity, best, step = Identity(b"b" * 32), float("inf"), 0
    key = identity.verifying_key
    for _ in range(ROUNDS):
        prepared = [statements(count, step + number) for number in range(16)]
        step += len(prepared)
        steps, began_s = 0, time.perf_counter()
        end_s = began_s + round_s
        while (now_s := time.perf_counter()) < end_s:
            way(identity, key, prepared[steps % len(prepared)])
            steps += 1
        best = min(best, (now_s - began_s) / steps)
    return 1e6 * best


def measure(quick: bool = False) -> list[dict[str, Any]]:
    """All rows."""
    round_s = 0.005 if quick else ROUND_S
    ways = (signed_each, signed_by_layers, signed_by_root)
    return [asdict(Row(count, *(fastest_us(way, count, round_s) for way in ways))) for count in RESULTS]


def show(report: list[dict[str, Any]]) -> None:
    """Prints the rows."""
    print("microseconds a step, node and coordinator together, one thread")
    print(f"{'results':>8}{'each':>12}{'root a layer':>14}{'root a step':>14}")
    for row in report:
        print(
            f"{row['results']:>8}{row['each_us']:>12.0f}{row['root_a_layer_us']:>14.0f}{row['root_a_step_us']:>14.0f}"
        )
    print("a root a step is checked after the results of all but its last layer were used")
