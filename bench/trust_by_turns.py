"""`folkmoot` whose trust changes with the clock: what the benchmark of trust's cost compares within one network.

Guarantees: only a process that was started as this module behaves so; nothing of the package can be told to. Windows of time follow one
another in which everything is on, nothing is audited, and nothing is signed either: results are then not signed, their signatures not
checked, and their tensors not digested. Whether a frame is signed is said by its deadline, whose milliseconds are odd where it is not, so
both ends agree about each frame. Where nothing is audited nodes keep nothing to open. Outside their windows audits earn no time, so they
take no more inside them than they always do; openings that are under way at a window's end come as they would.

A machine that others use too is faster in one minute than in the next, and one process's memory may be faster than another's: windows of
the same processes, some seconds apart, have neither in common.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from threading import local
from types import SimpleNamespace
from typing import Any, Final

import torch
from blake3 import blake3

from ..cli import main
from ..coordinator.audit.auditor import Auditor
from ..coordinator.audit.pace import Pace
from ..coordinator.dispatch import acceptance, answering
from ..coordinator.dispatch.acceptance import Expected
from ..coordinator.dispatch.part import Part
from ..coordinator.dispatch.verified_result import VerifiedResult
from ..coordinator.hub.link import Link
from ..kernels.first_products import FirstProducts
from ..node.executor import Executor
from ..node.frames import Work
from ..node.kept_activations import KeptActivations
from ..protos.folkmoot.v1 import link_pb2
from ..trust import statements
from ..trust.keys import Identity, VerifyingKey
from ..trust.statements import DIGEST_BYTES, ResultStatement, domain_tag

PROGRAM: Final = "folkmoot.bench.trust_by_turns"
WINDOW_S: Final = 1.5

_RESULT: Final = domain_tag("result")
_NOT_DIGESTED: Final = (domain_tag("tensor"), domain_tag("task"))


class Trust(Enum):
    """What is on in a window."""

    EVERYTHING = "signatures and audits"
    SIGNATURES = "signatures alone"
    NOTHING = "neither"


def trust_at(moment_s: float) -> Trust:
    """What is on at a moment of the monotonic clock, which all processes of a machine share."""
    return list(Trust)[int(moment_s // WINDOW_S) % len(Trust)]


def audited_s(since_s: float, until_s: float) -> float:
    """How much of a time audits are on."""
    cycle_s = WINDOW_S * len(Trust)

    def before(moment_s: float) -> float:
        cycles, rest_s = divmod(moment_s, cycle_s)
        return cycles * WINDOW_S + min(rest_s, WINDOW_S)

    return before(until_s) - before(since_s)


def take_turns() -> None:
    """From now on what this process does for trust changes with the clock."""
    _audit_by_turns()
    _sign_by_turns()


def _audit_by_turns() -> None:
    watch, ask, pause_s, count = Auditor.watch, Auditor._ask, Auditor._pause_s, Pace._count
    room = KeptActivations.room

    def audited_now() -> bool:
        return trust_at(time.monotonic()) is Trust.EVERYTHING

    def watch_now(self: Auditor, verified: VerifiedResult) -> None:
        if audited_now():
            watch(self, verified)

    def ask_now(self: Auditor) -> None:
        if audited_now():
            ask(self)

    def pause_now_s(self: Auditor) -> float:
        return pause_s(self) if audited_now() else max(pause_s(self), WINDOW_S - time.monotonic() % WINDOW_S)

    def count_now(self: Pace, now_s: float) -> None:
        self._counted_s = now_s - audited_s(self._counted_s, now_s)
        count(self, now_s)

    def room_now(self: KeptActivations, work: Work) -> FirstProducts | None:
        return room(self, work) if audited_now() else None

    Auditor.watch = watch_now  # type: ignore[method-assign]
    Auditor._ask = ask_now  # type: ignore[method-assign]
    Auditor._pause_s = pause_now_s  # type: ignore[method-assign]
    Pace._count = count_now  # type: ignore[method-assign]
    KeptActivations.room = room_now  # type: ignore[method-assign]


class _NoDigest:
    """In the place of a digest."""

    def update(self, _: object) -> _NoDigest:
        """Does nothing."""
        return self

    def digest(self) -> bytes:
        """The same for all."""
        return bytes(DIGEST_BYTES)


def _sign_by_turns() -> None:
    here = local()
    signed, verified = Identity.sign, VerifyingKey.verify
    deadline_s, state, check, answer = Link.deadline_s, Part.state, acceptance.check, Executor.answer

    @contextmanager
    def under(deadline_ms: int) -> Iterator[None]:
        here.unsigned = deadline_ms % 2 == 1
        try:
            yield
        finally:
            here.unsigned = False

    def unsigned() -> bool:
        return getattr(here, "unsigned", False)

    def sign_now(self: Identity, message: bytes) -> bytes:
        left_out = unsigned() and message.startswith(_RESULT)
        return bytes(64) if left_out else signed(self, message)

    def verify_now(self: VerifyingKey, signature: bytes, message: bytes) -> None:
        if not (unsigned() and message.startswith(_RESULT)):
            verified(self, signature, message)

    def unless_unsigned(digest: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def digest_now(data: bytes) -> Any:
            return _NoDigest() if unsigned() and data.startswith(_NOT_DIGESTED) else digest(data)

        return digest_now

    def deadline_now_s(self: Link, rows: int) -> float:
        odd = trust_at(time.monotonic()) is Trust.NOTHING
        # Half a millisecond less, since whoever states a deadline rounds it up.
        return (int(500 * deadline_s(self, rows)) * 2 + odd - 0.5) / 1000

    def state_now(self: Part) -> None:
        with under(self.deadline_ms):
            state(self)

    def check_now(result: link_pb2.Result, output: torch.Tensor, expected: Expected) -> ResultStatement:
        with under(expected.task.deadline_ms):
            return check(result, output, expected)

    def answer_now(self: Executor, frame: link_pb2.Frame) -> link_pb2.Result | None:
        with under(frame.deadline_ms):
            return answer(self, frame)

    Identity.sign = sign_now  # type: ignore[method-assign]
    VerifyingKey.verify = verify_now  # type: ignore[method-assign]
    statements.hashlib = SimpleNamespace(sha256=unless_unsigned(hashlib.sha256))  # type: ignore[assignment,attr-defined]
    statements.blake3 = unless_unsigned(blake3)  # type: ignore[assignment,attr-defined]
    Link.deadline_s = deadline_now_s  # type: ignore[method-assign]
    Part.state = state_now  # type: ignore[method-assign]
    acceptance.check = answering.check = check_now  # type: ignore[attr-defined]
    Executor.answer = answer_now  # type: ignore[method-assign]


if __name__ == "__main__":
    take_turns()
    main.main()
