"""An expert's sketch: what the coordinator keeps of its weights in order to check openings without them.

Guarantees: a sketch is the secret projections times the canonical weights, computed in float64 and rounded once to
float32; its bytes have one encoding, are bounded, and are refused when they have any other length, a number that is
not finite, or sizes out of range. A sketch names the projections that it was made with and is useless, and
meaningless, without them.

Letters: k projections, H hidden size, I intermediate size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import TrustError
from .byte_reader import ByteReader
from .expert_arithmetic import ExpertWeights, Floats
from .projections import MAX_COUNT, MAX_WIDTH, Projections
from .statements import DIGEST_BYTES, domain_tag

Singles = npt.NDArray[np.float32]

_TAG: Final = domain_tag("sketch")
_SIZES: Final = struct.Struct(">III?")


class SketchError(TrustError):
    """Bytes are no sketch, or a sketch does not go with the projections or weights it is used with."""


@dataclass(frozen=True, eq=False)
class ExpertSketch:
    """What is kept of one expert.

    Attributes:
        projections: Identity of the projections it was made with.
        gate: [k, H] float32, inner projections times the gate matrix; None without a gate.
        up: [k, H] float32.
        down: [k, I] float32, outer projections times the down matrix.
        gate_bias, up_bias, down_bias: [k] float32, projections of the biases; zero where there are none.
    """

    projections: bytes
    gate: Singles | None = field(repr=False)
    up: Singles = field(repr=False)
    down: Singles = field(repr=False)
    gate_bias: Singles = field(repr=False)
    up_bias: Singles = field(repr=False)
    down_bias: Singles = field(repr=False)

    def encode(self) -> bytes:
        """The canonical bytes: tag, identity, sizes, then the arrays in the order of the attributes, little-endian."""
        (count, hidden), intermediate = self.up.shape, self.down.shape[1]
        header = _TAG + self.projections + _SIZES.pack(count, hidden, intermediate, self.gate is not None)
        arrays = (self.gate, self.up, self.down, self.gate_bias, self.up_bias, self.down_bias)
        return header + b"".join(array.astype("<f4").tobytes() for array in arrays if array is not None)

    @classmethod
    def decode(cls, data: bytes) -> ExpertSketch:
        """Reads what `encode` made.

        Raises:
            SketchError: when the bytes are no sketch.
        """
        reader = ByteReader(data, SketchError)
        reader.expect(_TAG, "sketch")
        projections = reader.take(DIGEST_BYTES)
        count, hidden = reader.number(4, MAX_COUNT), reader.number(4, MAX_WIDTH)
        intermediate, gated = reader.number(4, MAX_WIDTH), reader.number(1, 1)
        if not (count and hidden and intermediate):
            raise SketchError("a sketch of nothing is no sketch")

        def array(*shape: int) -> Singles:
            numbers = np.frombuffer(reader.take(4 * int(np.prod(shape))), "<f4").astype(np.float32)
            if not np.isfinite(numbers).all():
                raise SketchError("a number in the sketch is not finite")
            return numbers.reshape(shape)

        gate = array(count, hidden) if gated else None
        up, down = array(count, hidden), array(count, intermediate)
        sketch = cls(projections, gate, up, down, array(count), array(count), array(count))
        reader.finish()
        return sketch


def sketch_expert(projections: Projections, weights: ExpertWeights) -> ExpertSketch:
    """The sketch of an expert.

    Args:
        projections: Of its layer.
        weights: Its canonical weights, dequantized, in float32 or wider.

    Raises:
        SketchError: when the weights have other sizes than the projections, or are not finite.
    """
    inner, outer = projections.inner.astype(np.float64), projections.outer.astype(np.float64)
    intermediate, hidden = inner.shape[1], outer.shape[1]
    if weights.up.shape != (intermediate, hidden) or weights.down.shape != (hidden, intermediate):
        raise SketchError(f"projections of {hidden} x {intermediate} do not go with these weights")
    if weights.gate is not None and weights.gate.shape != weights.up.shape:
        raise SketchError("the gate matrix has another shape than the up matrix")

    def product(vectors: npt.NDArray[np.float64], matrix: Floats | None, width: int) -> Singles:
        held = np.zeros(width) if matrix is None else np.asarray(matrix, np.float64)
        result = (vectors @ held).astype(np.float32)
        if not np.isfinite(result).all():
            raise SketchError("the expert's weights are not finite")
        return result

    return ExpertSketch(
        projections=projections.identity,
        gate=None if weights.gate is None else product(inner, weights.gate, hidden),
        up=product(inner, weights.up, hidden),
        down=product(outer, weights.down, intermediate),
        gate_bias=product(inner, weights.gate_bias, intermediate),
        up_bias=product(inner, weights.up_bias, intermediate),
        down_bias=product(outer, weights.down_bias, hidden),
    )
