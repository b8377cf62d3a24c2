"""Checking evidence offline, step by step.

Guarantees: each step is said before the next is begun, with its name, whether it held, and what was found; the first
that does not hold ends the check with "not proven"; "proven" is said only when the node's own signature covers an
output that a float64 recomputation from the manifest's weights shows to be wrong, in a row that honest machines, whatever order they
sum in, agree about. The coordinator's verdict is read
beside that, and proves nothing by itself. Bytes that are no evidence end as "malformed". Whatever the file says,
nothing is raised.
"""

from __future__ import annotations

from collections.abc import Iterator

from .audit_statements import VerdictKind, millionths
from .bias_check import check_bias
from .bias_evidence import BiasEvidence
from .check_steps import (
    NotProvenError,
    Outcome,
    PublicModel,
    Step,
    WeightsOfLayer,
    check_input,
    check_manifest,
    check_operator,
    check_output,
    check_result,
    check_signature,
    check_task,
    check_verdict,
    in_turn,
)
from .evidence import Evidence
from .recompute import Tolerance, compare, recompute
from .signed_frame import MalformedEvidenceError

__all__ = ["Outcome", "PublicModel", "Step", "check_bytes", "check_evidence"]


def check_bytes(
    data: bytes, model: PublicModel, operator: bytes | None = None, tolerance: Tolerance | None = None
) -> Iterator[Step]:
    """Checks an evidence file of either kind; arguments as of `check_evidence`."""
    try:
        evidence = BiasEvidence.decode(data) if BiasEvidence.is_meant(data) else Evidence.decode(data)
    except MalformedEvidenceError as error:
        yield Step("file", False, error.message, Outcome.MALFORMED)
        return
    if isinstance(evidence, BiasEvidence):
        node, what = evidence.frames[-1].frame.task.node, f"evidence of a bias in {evidence.rows} rows"
    else:
        node, what = evidence.task.node, "evidence"
    yield Step("file", True, f"{len(data)} bytes of {what} against node {node.hex()[:12]}")
    if isinstance(evidence, BiasEvidence):
        yield from check_bias(evidence, model, operator, tolerance)
    else:
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
    checks = (
        ("manifest", lambda: check_manifest(evidence, model)),
        ("operator", lambda: check_operator(evidence, evidence.manifest_signature, operator)),
        ("task", lambda: check_task(evidence)),
        ("input", lambda: check_input(evidence)),
        ("output", lambda: check_output(evidence)),
        ("result", lambda: check_result(evidence)),
        ("signature", lambda: check_signature(evidence)),
        (
            "verdict",
            lambda: check_verdict(
                evidence,
                evidence.verdict,
                evidence.verdict_signature,
                VerdictKind.WRONG,
                "the result was wrong",
            ),
        ),
    )
    for step in in_turn(checks):
        yield step
        if not step.held:
            return
    yield _recomputation(evidence, model, tolerance or Tolerance())


def _recomputation(evidence: Evidence, model: PublicModel, tolerance: Tolerance) -> Step:
    name, task = "recomputation", evidence.task
    pairs = evidence.routing.by_expert(task.rows) or []
    try:
        weights = WeightsOfLayer(model, evidence, pairs[0].expert)
        recomputed = recompute(weights.form, weights, evidence.input.values(), pairs)
    except NotProvenError as error:
        return Step(name, False, error.message, Outcome.NOT_PROVEN)
    found = compare(evidence.output.values(), recomputed, tolerance)
    beyond = f"of {found.unknown} rows nothing can be said: float32 is too coarse, or too narrow, for them"
    if found.unknown == task.rows:
        return Step(name, False, beyond, Outcome.NOT_PROVEN)
    detail = (
        f"row {found.worst} is off by {millionths(found.worst_error)} millionths of its size, "
        f"allowed are {millionths(found.worst_allowed)}; "
        f"{len(found.wrong)} of {task.rows} rows wrong" + (f"; {beyond}" if found.unknown else "")
    )
    return Step(name, bool(found.wrong), detail, Outcome.PROVEN if found.wrong else Outcome.NOT_PROVEN)
