"""Where a product's gate and up activations are left for whoever may be asked to open them.

Letters: P pairs of an expert and a row, I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FirstProducts:
    """Room for the activations of all pairs of a call, and whether they are there.

    Every frame of a node has one, made while the caches are full of weights: so these are addresses and no tensors.

    Attributes:
        gate: Address of [P, I] float32, a row for each row of each group in turn; nothing is written there where experts
            have no gate.
        up: Likewise.
        pairs: P
        filled: Whether both were computed as an opening is: from the weights as they are, in float32 throughout.
    """

    gate: int
    up: int
    pairs: int
    filled: bool = False
