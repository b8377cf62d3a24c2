"""Where a product's gate and up activations are left for whoever may be asked to open them.

Letters: P pairs of an expert and a row, I intermediate size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class FirstProducts:
    """Room for the activations of all pairs of a call, and whether they are there.

    Attributes:
        gate: [P, I] float32, contiguous, a row for each row of each group in turn; None where experts have no gate.
        up: [P, I] likewise.
        filled: Whether both were computed as an opening is: from the weights as they are, in float32 throughout.
    """

    gate: torch.Tensor | None
    up: torch.Tensor
    filled: bool = False
