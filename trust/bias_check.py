"""Checking evidence of a bias offline, step by step.

Guarantees: as those of `evidence_check.py`: "proven" is said only when the node's own signatures cover rows of different inputs that a
float64 recomputation from the manifest's weights shows to be biased together, beyond what any honest way of rounding leaves of
these very rows. No secret of the coordinator is needed, and its verdict proves nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .audit_statements import VerdictKind, millionths
from .bias import weigh_bias
from .bias_evidence import BiasEvidence, CountedFrame
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
from .expert_arithmetic import Doubles, ExpertRows
from .recompute import Tolerance
from .signed_frame import SignedFrame


def check_bias(
    evidence: BiasEvidence,
    model: PublicModel,
    operator: bytes | None = None,
    tolerance: Tolerance | None = None,
) -> Iterator[Step]:
    """Checks evidence of a bias, yielding each step as it is done; the last has the outcome. Arguments as of `check_evidence`."""
    frames = [one.frame for one in evidence.frames]
    last, allowed = frames[-1], tolerance or Tolerance()

    def each(check: Callable[[SignedFrame], str]) -> Callable[[], str]:
        return lambda: f"{[check(frame) for frame in frames][-1]}; {len(frames)} frames"

    checks = (
        ("manifest", lambda: check_manifest(last, model)),
        ("operator", lambda: check_operator(last, evidence.manifest_signature, operator)),
        ("frames", lambda: _belong_together(frames)),
        ("tasks", each(check_task)),
        ("inputs", each(check_input)),
        ("outputs", each(check_output)),
        ("results", each(check_result)),
        ("signatures", each(check_signature)),
        ("rows", lambda: _rows_count(evidence, allowed)),
        (
            "verdict",
            lambda: check_verdict(
                last,
                evidence.verdict,
                evidence.verdict_signature,
                VerdictKind.BIASED,
                "results were biased",
            ),
        ),
    )
    for step in in_turn(checks):
        yield step
        if not step.held:
            return
    yield _recomputation(evidence, model, allowed)


def _belong_together(frames: list[SignedFrame]) -> str:
    last = frames[-1].task
    whose = (last.coordinator, last.node, last.manifest, last.profile, last.layer, last.hidden)
    for frame in frames:
        task = frame.task
        if (
            task.coordinator,
            task.node,
            task.manifest,
            task.profile,
            task.layer,
            task.hidden,
        ) != whose:
            raise NotProvenError("the frames are not of one node and one layer")
    if len({(frame.task.session, frame.task.sequence) for frame in frames}) != len(frames):
        raise NotProvenError("a frame is there twice")
    return f"all of node {last.node.hex()[:12]}, layer {last.layer}"


def _rows_count(evidence: BiasEvidence, tolerance: Tolerance) -> str:
    inputs = _rows([(one, one.frame.input.values()) for one in evidence.frames])
    if len({row.tobytes() for row in inputs + 0.0}) != len(inputs):  # zeros of either sign are one
        raise NotProvenError("a row is there twice: the same row rounds the same way each time")
    if len(inputs) < tolerance.drift_rows:
        raise NotProvenError(f"{len(inputs)} rows are too few: it takes {tolerance.drift_rows}")
    return f"{len(inputs)} rows, all different"


def _recomputation(evidence: BiasEvidence, model: PublicModel, tolerance: Tolerance) -> Step:
    name = "recomputation"
    pairs = joined_pairs([(one.frame, one.rows) for one in evidence.frames])
    if not pairs:
        return Step(name, False, "no expert worked on these rows", Outcome.NOT_PROVEN)
    try:
        weights = WeightsOfLayer(model, evidence.frames[-1].frame, pairs[0].expert)
        found = weigh_bias(
            weights.form,
            weights,
            _rows([(one, one.frame.input.values()) for one in evidence.frames]),
            _rows([(one, one.frame.output.values()) for one in evidence.frames]),
            pairs,
            tolerance,
        )
    except NotProvenError as error:
        return Step(name, False, error.message, Outcome.NOT_PROVEN)
    if found.allowed == float("inf"):
        detail = "of one row at least nothing can be said: float32 is too coarse, or too narrow, for it"
        return Step(name, False, detail, Outcome.NOT_PROVEN)
    detail = (
        f"{found.rows} rows together are off by {millionths(found.drift)} millionths of their size in one way, "
        f"honest rounding of these rows leaves at most {millionths(found.allowed)}"
    )
    return Step(name, found.biased, detail, Outcome.PROVEN if found.biased else Outcome.NOT_PROVEN)


def _rows(parts: list[tuple[CountedFrame, Doubles]]) -> Doubles:
    """The rows that count, of all frames in turn."""
    return np.concatenate([values[list(one.rows)] for one, values in parts])


def joined_pairs(frames: list[tuple[SignedFrame, tuple[int, ...]]]) -> list[ExpertRows]:
    """The experts of the rows that count, with these counted through all frames."""
    rows: dict[int, list[npt.NDArray[Any]]] = {}
    gates: dict[int, list[npt.NDArray[Any]]] = {}
    start = 0
    for frame, counted in frames:
        wanted = np.array(counted)
        for one in frame.routing.by_expert(frame.task.rows) or []:
            kept = np.isin(one.rows, wanted)
            rows.setdefault(one.expert, []).append(start + np.searchsorted(wanted, one.rows[kept]))
            gates.setdefault(one.expert, []).append(one.gates[kept])
        start += len(counted)
    return [
        ExpertRows(expert, np.concatenate(rows[expert]), np.concatenate(gates[expert]))
        for expert in sorted(rows)
        if sum(map(len, rows[expert]))
    ]
