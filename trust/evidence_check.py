"""Checking evidence offline, step by step.

Guarantees: each step is said before the next is begun, with its name, whether it held, and what was found; the first
that does not hold ends the check with "not proven"; "proven" is said only when the node's own signature covers an
output that a float64 recomputation from the manifest's weights shows to be wrong. The coordinator's verdict is read
beside that, and proves nothing by itself. Bytes that are no evidence end as "malformed". Whatever the file says,
nothing is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import TrustError
from ..ids import ExpertKey
from .audit_statements import VerdictKind, millionths
from .evidence import Evidence, MalformedEvidenceError
from .expert_arithmetic import ExpertForm, ExpertWeights
from .keys import VerifyingKey
from .recompute import Tolerance, compare, recompute
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


def check_bytes(
    data: bytes, model: PublicModel, operator: bytes | None = None, tolerance: Tolerance | None = None
) -> Iterator[Step]:
    """Checks an evidence file; arguments as of `check_evidence`."""
    try:
        evidence = Evidence.decode(data)
    except MalformedEvidenceError as error:
        yield Step("file", False, error.message, Outcome.MALFORMED)
        return
    yield Step("file", True, f"{len(data)} bytes of evidence against node {evidence.task.node.hex()[:12]}")
    yield from check_evidence(evidence, model, operator, tolerance)


def check_evidence(
    evidence: Evidence, model: PublicModel, operator: bytes | None = None, tolerance: Tolerance | None = None
) -> Iterator[Step]:
    """Checks evidence, yielding each step as it is done; the last has the outcome.

    Args:
        evidence: What was claimed.
        model: The public model.
        operator: The coordinator's key, where the checker knows it; otherwise the one in the evidence is taken, and named.
        tolerance: What an honest node may differ by.
    """
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("manifest", lambda: _manifest(evidence, model)),
        ("operator", lambda: _operator(evidence, operator)),
        ("task", lambda: _task(evidence)),
        ("input", lambda: _same(evidence.input.digest(), evidence.task.input, "the input")),
        ("output", lambda: _same(evidence.output.digest(), evidence.result.output, "the output")),
        ("result", lambda: _result(evidence)),
        ("signature", lambda: _signature(evidence)),
        ("verdict", lambda: _verdict(evidence)),
    )
    for name, check in checks:
        try:
            detail = check()
        except TrustError as error:
            yield Step(name, False, error.message, Outcome.NOT_PROVEN)
            return
        yield Step(name, True, detail)
    yield _recomputation(evidence, model, tolerance or Tolerance())


class _NotProvenError(TrustError):
    """A step does not hold."""


def _same(found: bytes, stated: bytes, what: str) -> str:
    if found != stated:
        raise _NotProvenError(f"{what} in the file is not the one that was stated")
    return f"{what} has the stated SHA-256 {stated.hex()[:16]}"


def _manifest(evidence: Evidence, model: PublicModel) -> str:
    return _same(hashlib.sha256(model.manifest).digest(), evidence.task.manifest, "the manifest")


def _operator(evidence: Evidence, operator: bytes | None) -> str:
    key = evidence.task.coordinator
    if operator is not None and key != operator:
        raise _NotProvenError(f"the task was set by {key.hex()[:12]}, not by the operator who was named")
    VerifyingKey(key).verify(evidence.manifest_signature, manifest_statement(evidence.task.manifest))
    return f"coordinator {key.hex()[:12]} signed this manifest"


def _task(evidence: Evidence) -> str:
    task = evidence.task
    if task.profile not in PROFILES:
        raise _NotProvenError(f"no tolerance is known for the profile {task.profile!r}")
    _same(evidence.routing.digest(), task.routing, "the routing")
    if evidence.routing.by_expert(task.rows) is None:
        raise _NotProvenError("the routing is not in canonical order, or names rows that are not there")
    return f"layer {task.layer}, {task.rows} rows, {evidence.routing.pairs} pairs, sequence {task.sequence}"


def _result(evidence: Evidence) -> str:
    _same(evidence.task.digest(), evidence.result.task, "the task")
    if evidence.result.status:
        raise _NotProvenError(f"the node stated no result, but status {evidence.result.status}")
    return "the result answers this task"


def _signature(evidence: Evidence) -> str:
    key = VerifyingKey(evidence.task.node)
    key.verify(evidence.signature, evidence.result.encode())
    return f"node {key.node_id[:12]} signed the result"


def _verdict(evidence: Evidence) -> str:
    verdict, task = evidence.verdict, evidence.task
    VerifyingKey(task.coordinator).verify(evidence.verdict_signature, verdict.encode())
    stated = (verdict.coordinator, verdict.node, verdict.manifest, verdict.task, verdict.output)
    if stated != (task.coordinator, task.node, task.manifest, task.digest(), evidence.result.output):
        raise _NotProvenError("the verdict is about another result")
    if verdict.kind != VerdictKind.WRONG:
        raise _NotProvenError("the verdict does not say that the result was wrong")
    return f"the coordinator found an error of {verdict.error_millionths} millionths"


def _recomputation(evidence: Evidence, model: PublicModel, tolerance: Tolerance) -> Step:
    name, task = "recomputation", evidence.task
    pairs = evidence.routing.by_expert(task.rows) or []
    forms: list[ExpertForm] = []

    def weights_of(expert: int) -> ExpertWeights:
        form, weights = _expert(model, ExpertKey(task.layer, expert), task.hidden)
        forms.append(form)
        return weights

    try:
        weights_of(pairs[0].expert)
        recomputed = recompute(forms[0], weights_of, evidence.input.values(), pairs)
    except _NotProvenError as error:
        return Step(name, False, error.message, Outcome.NOT_PROVEN)
    found = compare(evidence.output.values(), recomputed, tolerance)
    detail = (
        f"row {found.worst} is off by {millionths(found.worst_error)} millionths of its size, "
        f"allowed are {millionths(found.worst_allowed)}; "
        f"{len(found.wrong)} of {task.rows} rows wrong"
    )
    return Step(name, bool(found.wrong), detail, Outcome.PROVEN if found.wrong else Outcome.NOT_PROVEN)


def _expert(model: PublicModel, key: ExpertKey, hidden: int) -> tuple[ExpertForm, ExpertWeights]:
    found = model.weights_of(key)
    if found is None:
        raise _NotProvenError(f"the model has no {key}")
    if found[1].up.shape[1] != hidden:
        raise _NotProvenError(f"the model's hidden size is {found[1].up.shape[1]}, not {hidden}")
    return found
