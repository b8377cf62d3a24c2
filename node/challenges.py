"""Reading challenges: from what a coordinator asks about a result to what has to be opened.

Guarantees: a `Question` exists only for a challenge of a known kind, with a nonce and a result's digest of the right lengths,
within the caps, whose rows are named once each in order, whose pairs are in canonical order, and whose experts the manifest
has and the node holds. Whatever else arrives is `Refused`, which says why; nothing in a challenge can make the reader raise
anything else. Nothing of the result that is asked about has to be remembered: the challenge has all that an opening follows from.

Letters: R rows, H hidden size, I intermediate size, P pairs of an expert and a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..kernels.expert import Expert
from ..kernels.opening import open_expert, stands_in
from ..models.manifest import Manifest
from ..protos.codec import TensorError
from ..protos.folkmoot.v1 import link_pb2
from ..protos.limits import MAX_OPENED_ROWS, MAX_ROWS_PER_FRAME, NONCE_BYTES, opened_pairs
from ..trust.audit_statements import ChallengeStatement, OpeningKind, rows_digest
from ..trust.statements import DIGEST_BYTES
from .routing import RoutingError, read_pairs
from .rows import RowsReader, malformed
from .session import Session
from .shelf import Shelf


@dataclass(frozen=True, slots=True)
class Question:
    """A challenge that has been checked.

    Attributes:
        sequence, layer: The frame whose result is asked about.
        kind: How exactly to open.
        dtype: The type that the opening crosses the wire in.
        asked: Which rows of the frame are asked for, ascending.
        hidden: [R, H] in the model's dtype, these rows.
        numbers: The experts, ascending.
        parts: Each of them, and the rows of `hidden` that went through it.
        challenge: Digest of the challenge's statement, which the opening is bound to.
    """

    sequence: int
    layer: int
    kind: OpeningKind
    dtype: torch.dtype
    asked: tuple[int, ...]
    hidden: torch.Tensor
    numbers: tuple[int, ...]
    parts: tuple[tuple[Expert, torch.Tensor], ...]
    challenge: bytes


@dataclass(frozen=True, slots=True)
class Activations:
    """What is opened.

    Attributes:
        gate: [P, I], a row for each pair in canonical order; [0, 0] where experts have no gate.
        up: [P, I].
    """

    gate: torch.Tensor
    up: torch.Tensor


class ChallengeReader:
    """Checks the challenges of one session against its manifest and what is held when the challenge is read."""

    def __init__(self, session: Session, manifest: Manifest, shelf: Shelf) -> None:
        """Raises ManifestError when the model's activations are of a type that this version does not know."""
        self._rows = RowsReader(manifest, shelf)
        self._session = session
        self._most_pairs = {
            layer: opened_pairs(manifest.spec_of(keys[0]).intermediate)
            for layer, keys in manifest.layers.items()
        }

    def read(self, challenge: link_pb2.Challenge) -> Question:
        """What has to be opened.

        Raises:
            Refused: when the challenge is malformed, or names an expert that is not held.
        """
        kind = _kind(challenge)
        self._rows.check_layer(challenge.layer)
        hidden = self._rows.hidden(challenge.hidden, MAX_OPENED_ROWS)  # [R, H]
        _check_asked(challenge.asked, len(hidden))
        try:
            pairs = read_pairs(
                challenge.experts, challenge.rows, len(hidden), self._most_pairs[challenge.layer]
            )
        except (TensorError, RoutingError) as error:
            raise malformed(error.message) from error
        numbers = tuple(number for number, _ in pairs)
        experts = self._rows.experts(challenge.layer, numbers)
        return Question(
            sequence=challenge.sequence,
            layer=challenge.layer,
            kind=kind,
            dtype=torch.float32 if kind is OpeningKind.TIGHT else self._raw(experts),
            asked=tuple(challenge.asked),
            hidden=hidden,
            numbers=numbers,
            parts=tuple((expert, rows) for expert, (_, rows) in zip(experts, pairs, strict=True)),
            challenge=self._statement(challenge).digest(),
        )

    def _raw(self, experts: Sequence[Expert]) -> torch.dtype:
        """The model's type where results are computed from what was rounded to it, float32 otherwise."""
        model = self._rows.dtype
        return model if all(stands_in(expert, model) == model for expert in experts) else torch.float32

    def _statement(self, challenge: link_pb2.Challenge) -> ChallengeStatement:
        return ChallengeStatement(
            coordinator=self._session.coordinator_key,
            node=self._session.identity.public,
            session=self._session.session,
            sequence=challenge.sequence,
            result=challenge.result,
            rows=rows_digest(challenge.asked),
            kind=challenge.kind,
            nonce=challenge.nonce,
        )


def open_parts(
    parts: Sequence[tuple[Expert, torch.Tensor]],
    hidden: torch.Tensor,
    between: Callable[[], None] = lambda: None,
) -> Activations:
    """Opens experts of one form on their rows of hidden [R, H], in float32; calls `between` when one is done and another is to come."""
    total = sum(rows.numel() for _, rows in parts)
    width = parts[0][0].spec.intermediate
    gate, up = torch.empty(0, 0), torch.empty(total, width)  # [P, I]
    start = 0
    for number, (expert, rows) in enumerate(parts):
        if number:
            between()
        end = start + rows.numel()
        gates, ups = open_expert(expert, hidden.index_select(0, rows))  # [n, I]
        up[start:end] = ups
        if gates is not None:
            gate = gate if gate.numel() else torch.empty_like(up)
            gate[start:end] = gates
        start = end
    return Activations(gate, up)


def _kind(challenge: link_pb2.Challenge) -> OpeningKind:
    """The kind, once all that is only a number or a digest has been checked."""
    for what, field, width in (
        ("nonce", challenge.nonce, NONCE_BYTES),
        ("result", challenge.result, DIGEST_BYTES),
    ):
        if len(field) != width:
            raise malformed(f"the challenge's {what} has {len(field)} bytes, not {width}")
    try:
        return OpeningKind(challenge.kind)
    except ValueError:
        raise malformed(f"there is no opening of kind {challenge.kind}") from None


def _check_asked(asked: Sequence[int], count: int) -> None:
    if len(asked) != count:
        raise malformed(f"{len(asked)} rows are asked for, {count} came")
    if any(after <= before for before, after in itertools.pairwise(asked)):
        raise malformed("the rows asked for are not strictly increasing")
    if count and asked[-1] >= MAX_ROWS_PER_FRAME:
        raise malformed(f"row {asked[-1]} is asked for, which no frame has")
