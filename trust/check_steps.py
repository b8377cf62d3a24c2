"""What checks of evidence have in common: their steps, their outcomes, and what of a single frame must hold.

Guarantees: a helper either says what held, or raises `NotProvenError` with what did not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import TrustError
from ..ids import ExpertKey
from .audit_statements import VerdictKind, VerdictStatement
from .expert_arithmetic import ExpertForm, ExpertWeights
from .keys import VerifyingKey
from .signed_frame import SignedFrame
from .statements import manifest_statement

PROFILES: Final = frozenset({"float32-accumulate/1"})
"""The arithmetic profiles that the tolerance was measured for."""


class Outcome(StrEnum):
    """How a check ends."""

    PROVEN = "proven"
    NOT_PROVEN = "not proven"
    MALFORMED = "malformed"

    @property
    def exit_code(self) -> int:
        """What a command that checks ends with."""
        return list(Outcome).index(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a check.

    Attributes:
        name: What was checked.
        held: Whether it is as it must be for the evidence to prove something.
        detail: What was found.
        outcome: How the check ends, in its last step; None before.
    """

    name: str
    held: bool
    detail: str
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class PublicModel:
    """What a checker has of the model.

    Attributes:
        manifest: The manifest's bytes.
        weights_of: An expert's form and canonical weights, checked against the manifest's SHA-256 of it; None when the model has no such expert.
    """

    manifest: bytes
    weights_of: Callable[[ExpertKey], tuple[ExpertForm, ExpertWeights] | None]


class NotProvenError(TrustError):
    """A step does not hold."""


def in_turn(checks: Sequence[tuple[str, Callable[[], str]]]) -> Iterator[Step]:
    """Each check as a step; the first that does not hold is the last."""
    for name, check in checks:
        try:
            detail = check()
        except TrustError as error:
            yield Step(name, False, error.message, Outcome.NOT_PROVEN)
            return
        yield Step(name, True, detail)


def same(found: bytes, stated: bytes, what: str) -> str:
    """Both are the same digest."""
    if found != stated:
        raise NotProvenError(f"{what} in the file is not the one that was stated")
    return f"{what} has the stated digest {stated.hex()[:16]}"


def check_manifest(frame: SignedFrame, model: PublicModel) -> str:
    """The frame is about this model."""
    return same(hashlib.sha256(model.manifest).digest(), frame.task.manifest, "the manifest")


def check_operator(frame: SignedFrame, signature: bytes, operator: bytes | None) -> str:
    """Who set the task signed the manifest, and is the operator who was named, if one was."""
    key = frame.task.coordinator
    if operator is not None and key != operator:
        raise NotProvenError(f"the task was set by {key.hex()[:12]}, not by the operator who was named")
    VerifyingKey(key).verify(signature, manifest_statement(frame.task.manifest))
    return f"coordinator {key.hex()[:12]} signed this manifest"


def check_task(frame: SignedFrame) -> str:
    """The task is one that a recomputation can judge, and its routing is what was stated."""
    task = frame.task
    if task.profile not in PROFILES:
        raise NotProvenError(f"no tolerance is known for the profile {task.profile!r}")
    same(frame.routing.digest(), task.routing, "the routing")
    if frame.routing.by_expert(task.rows) is None:
        raise NotProvenError("the routing is not in canonical order, or names rows that are not there")
    return f"layer {task.layer}, {task.rows} rows, {frame.routing.pairs} pairs, sequence {task.sequence}"


def check_input(frame: SignedFrame) -> str:
    """The input is what was stated."""
    return same(frame.input.digest(), frame.task.input, "the input")


def check_output(frame: SignedFrame) -> str:
    """The output is what was stated."""
    return same(frame.output.digest(), frame.result.output, "the output")


def check_result(frame: SignedFrame) -> str:
    """The result is one, and answers the task."""
    same(frame.task.digest(), frame.result.task, "the task")
    if frame.result.status:
        raise NotProvenError(f"the node stated no result, but status {frame.result.status}")
    return "the result answers this task"


def check_signature(frame: SignedFrame) -> str:
    """The node signed the result."""
    key = VerifyingKey(frame.task.node)
    key.verify(frame.signature, frame.result.encode())
    return f"node {key.node_id[:12]} signed the result"


def check_verdict(
    frame: SignedFrame, verdict: VerdictStatement, signature: bytes, kind: VerdictKind, what: str
) -> str:
    """The coordinator signed a verdict of this kind about the frame; `what` completes "does not say that"."""
    task = frame.task
    VerifyingKey(task.coordinator).verify(signature, verdict.encode())
    stated = (verdict.coordinator, verdict.node, verdict.manifest, verdict.task, verdict.output)
    if stated != (task.coordinator, task.node, task.manifest, task.digest(), frame.result.output):
        raise NotProvenError("the verdict is about another result")
    if verdict.kind != kind:
        raise NotProvenError(f"the verdict does not say that {what}")
    return f"the coordinator found an error of {verdict.error_millionths} millionths"


class WeightsOfLayer:
    """The experts of a layer that a frame is about; raises NotProvenError where the model has other ones."""

    def __init__(self, model: PublicModel, frame: SignedFrame, expert: int) -> None:
        """`expert` is one of the frame's."""
        self._model = model
        self._layer, self._hidden = frame.task.layer, frame.task.hidden
        self.form = self._found(expert)[0]

    def __call__(self, expert: int) -> ExpertWeights:
        """An expert's canonical weights."""
        return self._found(expert)[1]

    def _found(self, expert: int) -> tuple[ExpertForm, ExpertWeights]:
        key = ExpertKey(self._layer, expert)
        found = self._model.weights_of(key)
        if found is None:
            raise NotProvenError(f"the model has no {key}")
        if found[1].up.shape[1] != self._hidden:
            raise NotProvenError(f"the model's hidden size is {found[1].up.shape[1]}, not {self._hidden}")
        return found
