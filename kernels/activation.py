"""What stands between an expert's first and second product."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .formats import Activation, ExpertSpec


def activate(spec: ExpertSpec, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
    """The inner activations of n rows, in float32.

    Args:
        spec: Says which activation, and its constants.
        gate: [n, I]; None where the layout has no gate.
        up: [n, I].

    Returns:
        [n, I] float32.
    """
    up = up.float()
    if gate is None:
        return F.relu(up).square_()
    gate = gate.float()
    match spec.activation:
        case Activation.GEGLU_TANH:
            return F.gelu(gate, approximate="tanh") * up
        case Activation.CLAMPED_SWIGLU:
            gate, up = gate.clamp(max=spec.limit), up.clamp(min=-spec.limit, max=spec.limit)
            return gate * torch.sigmoid(spec.alpha * gate) * (up + 1)
        case _:
            return F.silu(gate) * up
