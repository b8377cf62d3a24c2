"""Reading frames: from what a coordinator sent to work that can be computed.

Guarantees: `Work` exists only for a frame of the right dtypes, shapes and caps, whose pairs are in canonical order and
unique, whose rows exist, whose gates are finite, and whose experts the manifest has and the node holds. Whatever else
arrives is a `FrameRefused` that says why; nothing in a frame can make the reader raise anything else.

Letters: R rows, H hidden size, P pairs of an expert and a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import WireError
from ..kernels.expert import Expert
from ..kernels.feed_forward import Group
from ..kernels.formats import DTYPES
from ..models.manifest import Manifest, ManifestError
from ..protos.codec import TensorError, decode_tensor, raw_bytes, wire_dtype
from ..protos.folkmoot.v1 import link_pb2
from ..trust.statements import tensor_digest
from .routing import RoutingError, RoutingReader
from .shelf import Shelf

Reason = link_pb2.Refusal.Reason


class FrameRefused(WireError):
    """The node will not compute a frame.

    Args:
        reason: The wire's number for why.
        message: The details.
    """

    def __init__(self, reason: Reason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def malformed(message: str) -> FrameRefused:
    """The refusal of a frame that breaks the contract."""
    return FrameRefused(Reason.REASON_MALFORMED, message)


@dataclass(frozen=True, slots=True)
class Work:
    """A frame that has been checked.

    Attributes:
        hidden: [R, H] in the model's dtype.
        groups: Rows and gates by expert, in canonical order.
        routing: `routing_digest` of the pairs.
        input: `tensor_digest` of the rows.
    """

    hidden: torch.Tensor
    groups: list[Group]
    routing: bytes
    input: bytes


class FrameReader:
    """Checks frames against one manifest, one session's caps, and what is held when the frame is read."""

    def __init__(self, manifest: Manifest, shelf: Shelf, max_rows: int) -> None:
        """Raises ManifestError when the model's activations are of a type that this version does not know."""
        if manifest.dtype not in DTYPES:
            raise ManifestError(
                f"the model computes in {manifest.dtype}, which this version does not know",
                advice="update folkmoot",
            )
        self._manifest = manifest
        self._shelf = shelf
        self._routings = RoutingReader()
        self._dtype = DTYPES[manifest.dtype]
        self._wire_dtype = wire_dtype(self._dtype)
        self._hidden = manifest.hidden
        self._hidden_bytes = max_rows * manifest.hidden * self._dtype.itemsize
        self._layers = {
            layer: frozenset(key.expert for key in keys) for layer, keys in manifest.layers.items()
        }

    def read(self, frame: link_pb2.Frame) -> Work:
        """The work in a frame.

        Raises:
            FrameRefused: when the frame is malformed, or names an expert that is not held.
        """
        known = self._layers.get(frame.layer)
        if known is None:
            raise malformed(f"the model has no experts in layer {frame.layer}")
        try:
            hidden = decode_tensor(
                frame.hidden,
                dtype=self._dtype,
                shape=(None, self._hidden),
                max_bytes=self._hidden_bytes,
                what="hidden",
            )  # [R, H]
            routing = self._routings.read(frame, hidden.shape[0])
        except (TensorError, RoutingError) as error:
            raise malformed(error.message) from error
        held = self._shelf.layer(frame.layer)
        if not all(number in held for number, _, _ in routing.parts):
            raise _absent(frame.layer, [number for number, _, _ in routing.parts], known, held)
        return Work(
            hidden=hidden,
            groups=[Group(held[number], rows, gates) for number, rows, gates in routing.parts],
            routing=routing.digest,
            input=tensor_digest(self._wire_dtype, hidden.shape, raw_bytes(hidden)),
        )


def _absent(
    layer: int, numbers: list[int], known: frozenset[int], held: Mapping[int, Expert]
) -> FrameRefused:
    unknown = [number for number in numbers if number not in known]
    if unknown:
        return malformed(f"layer {layer} has no expert {unknown[0]}")
    missing = [number for number in numbers if number not in held]
    return FrameRefused(
        Reason.REASON_NOT_HELD, f"not held: experts {', '.join(map(str, missing[:16]))} of layer {layer}"
    )
