"""Linear layers of a trunk, computed natively where few rows make torch slow.

Guarantees: each element is a float32 sum rounded once, whichever way it was computed; weights stay where they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..kernels.native_linear import linear


class FewRowsLinear(nn.Linear):
    """A linear layer that decodes fast."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., K] in, [..., N] out."""
        answer = linear(input, self.weight, self.bias)
        return F.linear(input, self.weight, self.bias) if answer is None else answer


def quicken(model: nn.Module) -> None:
    """Turns every plain linear layer of a model into one that decodes fast."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FewRowsLinear
