"""What frames and challenges have in common: rows of a layer, and the experts that they go through.

Guarantees: rows come out only with the model's dtype and width and within a cap, experts only if the manifest has them and the
node holds them when asked; no row holds what is not finite, or so large that honest machines would not agree on its answer. Whatever
else arrives is `Refused`, with the reason. Tiny rows are rows: zero is a right answer to them.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..errors import WireError
from ..kernels.expert import Expert
from ..kernels.formats import DTYPES
from ..models.manifest import Manifest, ManifestError
from ..protos.codec import TensorError, decode_tensor, wire_dtype
from ..protos.folkmoot.v1 import link_pb2, tensor_pb2
from ..protos.limits import MAX_ACTIVATION
from .shelf import Shelf

Reason = link_pb2.Refusal.Reason


class Refused(WireError):
    """The node will not do what a frame or a challenge asks.

    Args:
        reason: The wire's number for why.
        message: The details.
    """

    def __init__(self, reason: Reason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def malformed(message: str) -> Refused:
    """The refusal of what breaks the contract."""
    return Refused(Reason.REASON_MALFORMED, message)


def within_reason(numbers: torch.Tensor) -> bool:
    """Whether all numbers are finite, and none is larger than a model's."""
    if not numbers.numel():
        return True
    least, most = torch.aminmax(numbers)  # a NaN is both, and not at most anything
    return float(least) >= -MAX_ACTIVATION and float(most) <= MAX_ACTIVATION


class RowsReader:
    """Checks against one manifest and what is held.

    Attributes:
        dtype: The model's type of activations.
        wire_dtype: The wire's number for it.
    """

    def __init__(self, manifest: Manifest, shelf: Shelf) -> None:
        """Raises ManifestError when the model's activations are of a type that this version does not know."""
        if manifest.dtype not in DTYPES:
            raise ManifestError(
                f"the model computes in {manifest.dtype}, which this version does not know",
                advice="update folkmoot",
            )
        self.dtype = DTYPES[manifest.dtype]
        self.wire_dtype = wire_dtype(self.dtype)
        self._shelf = shelf
        self._hidden = manifest.hidden
        self._row_bytes = manifest.hidden * self.dtype.itemsize
        self._layers = {
            layer: frozenset(key.expert for key in keys) for layer, keys in manifest.layers.items()
        }

    def check_layer(self, layer: int) -> None:
        """Raises Refused when the model has no experts in a layer."""
        if layer not in self._layers:
            raise malformed(f"the model has no experts in layer {layer}")

    def hidden(self, tensor: tensor_pb2.Tensor, max_rows: int) -> torch.Tensor:
        """[R, H]. Raises Refused when the tensor is anything else, has more rows than the cap, or numbers that no model has."""
        try:
            rows = decode_tensor(
                tensor,
                dtype=self.dtype,
                shape=(None, self._hidden),
                max_bytes=max_rows * self._row_bytes,
                what="hidden",
            )
        except TensorError as error:
            raise malformed(error.message) from error
        if not within_reason(rows):
            raise malformed("a row holds what is not finite, or larger than any model's activations")
        return rows

    def experts(self, layer: int, numbers: Sequence[int]) -> list[Expert]:
        """Experts of a layer that the model has, in the order asked for. Raises Refused when one is not held."""
        held = self._shelf.layer(layer)
        if not all(number in held for number in numbers):
            raise self._absent(layer, numbers, held)
        return [held[number] for number in numbers]

    def _absent(self, layer: int, numbers: Sequence[int], held: Mapping[int, Expert]) -> Refused:
        unknown = [number for number in numbers if number not in self._layers[layer]]
        if unknown:
            return malformed(f"layer {layer} has no expert {unknown[0]}")
        missing = [number for number in numbers if number not in held]
        return Refused(
            Reason.REASON_NOT_HELD,
            f"not held: experts {', '.join(map(str, missing[:16]))} of layer {layer}",
        )
