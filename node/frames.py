"""Reading frames: from what a coordinator sent to work that can be computed.

Guarantees: `Work` exists only for a frame of the right dtypes, shapes and caps, whose pairs are in canonical order and
unique, whose rows exist, whose gates are finite, and whose experts the manifest has and the node holds. Whatever else
arrives is `Refused`, which says why; nothing in a frame can make the reader raise anything else.

Letters: R rows, H hidden size, P pairs of an expert and a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..kernels.feed_forward import Group
from ..models.manifest import Manifest
from ..protos.codec import TensorError, raw_bytes
from ..protos.folkmoot.v1 import link_pb2
from ..trust.statements import tensor_digest
from .routing import Routing, RoutingError, RoutingReader
from .rows import RowsReader, malformed
from .shelf import Shelf


@dataclass(frozen=True, slots=True)
class Work:
    """A frame that has been checked.

    Attributes:
        sequence, layer: The frame's.
        hidden: [R, H] in the model's dtype.
        groups: Rows and gates by expert, in canonical order.
        routing: The pairs.
        input: `tensor_digest` of the rows.
    """

    sequence: int
    layer: int
    hidden: torch.Tensor
    groups: list[Group]
    routing: Routing
    input: bytes


class FrameReader:
    """Checks frames against one manifest, one session's caps, and what is held when the frame is read."""

    def __init__(self, manifest: Manifest, shelf: Shelf, max_rows: int) -> None:
        """Raises ManifestError when the model's activations are of a type that this version does not know."""
        self._rows = RowsReader(manifest, shelf)
        self._routings = RoutingReader()
        self._max_rows = max_rows

    def read(self, frame: link_pb2.Frame) -> Work:
        """The work in a frame.

        Raises:
            Refused: when the frame is malformed, or names an expert that is not held.
        """
        self._rows.check_layer(frame.layer)
        hidden = self._rows.hidden(frame.hidden, self._max_rows)  # [R, H]
        try:
            routing = self._routings.read(frame, hidden.shape[0])
        except (TensorError, RoutingError) as error:
            raise malformed(error.message) from error
        experts = self._rows.experts(frame.layer, [number for number, _, _ in routing.parts])
        return Work(
            sequence=frame.sequence,
            layer=frame.layer,
            hidden=hidden,
            groups=[
                Group(expert, rows, gates)
                for expert, (_, rows, gates) in zip(experts, routing.parts, strict=True)
            ],
            routing=routing,
            input=tensor_digest(self._rows.wire_dtype, hidden.shape, raw_bytes(hidden)),
        )
