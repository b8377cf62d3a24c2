"""What an expert's canonical bytes are: which tensors, in which order, of which shape and type.

Guarantees: an `ExpertSpec` fixes, with nothing else, how many canonical bytes an expert has and where each tensor lies in
them. Canonical bytes are the tensors of `ExpertSpec.tensors()` end to end, each row-major and little-endian as published.

Letters: H hidden size, I intermediate size of one expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch


class Layout(StrEnum):
    """How a family publishes one expert; the order of roles is the order of canonical bytes."""

    SEPARATE = "separate"
    """gate [I, H], up [I, H], down [H, I] (Mixtral w1 w3 w2, Qwen, DeepSeek, OLMoE, ...)."""
    FUSED = "fused"
    """gate_up [2I, H] with gate first, down [H, I] (Granite)."""
    FUSED_TRANSPOSED = "fused_transposed"
    """gate_up [H, 2I] with gate first, down [I, H] (Llama 4)."""
    INTERLEAVED_BIASED = "interleaved_biased"
    """gate_up [H, 2I] with gate and up in alternate columns, gate_up_bias [2I], down [I, H], down_bias [H] (GPT-OSS)."""


class Activation(StrEnum):
    """What stands between the first and the second product."""

    SWIGLU = "swiglu"
    """silu(gate) * up."""
    GEGLU_TANH = "geglu_tanh"
    """gelu(gate, tanh approximation) * up."""
    CLAMPED_SWIGLU = "clamped_swiglu"
    """GPT-OSS: gate clamped above, up clamped both ways, gate * sigmoid(alpha * gate) * (up + 1)."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an expert: what it is for, and its shape."""

    role: str
    shape: tuple[int, ...]


DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The names of weight types, as the manifest spells them."""


@dataclass(frozen=True)
class ExpertSpec:
    """The form that experts of one kind share: sizes, weight type, layout and activation."""

    hidden: int
    intermediate: int
    dtype: str
    layout: Layout
    activation: Activation = Activation.SWIGLU
    alpha: float = 1.702
    limit: float = 7.0

    def __post_init__(self) -> None:
        if self.hidden <= 0 or self.intermediate <= 0:
            raise ValueError(f"an expert cannot be {self.hidden} x {self.intermediate}")
        if self.dtype not in DTYPES:
            raise ValueError(f"no such weight type: {self.dtype}; known are {', '.join(DTYPES)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The weight type as torch names it."""
        return DTYPES[self.dtype]

    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors of one expert in canonical order."""
        hidden, intermediate = self.hidden, self.intermediate
        match self.layout:
            case Layout.SEPARATE:
                return (
                    TensorSpec("gate", (intermediate, hidden)),
                    TensorSpec("up", (intermediate, hidden)),
                    TensorSpec("down", (hidden, intermediate)),
                )
            case Layout.FUSED:
                return (
                    TensorSpec("gate_up", (2 * intermediate, hidden)),
                    TensorSpec("down", (hidden, intermediate)),
                )
            case Layout.FUSED_TRANSPOSED:
                return (
                    TensorSpec("gate_up", (hidden, 2 * intermediate)),
                    TensorSpec("down", (intermediate, hidden)),
                )
            case Layout.INTERLEAVED_BIASED:
                return (
                    TensorSpec("gate_up", (hidden, 2 * intermediate)),
                    TensorSpec("gate_up_bias", (2 * intermediate,)),
                    TensorSpec("down", (intermediate, hidden)),
                    TensorSpec("down_bias", (hidden,)),
                )

    def tensor_bytes(self, tensor: TensorSpec) -> int:
        """How many bytes one tensor of the expert has."""
        return math.prod(tensor.shape) * self.torch_dtype.itemsize

    @property
    def expert_bytes(self) -> int:
        """How many canonical bytes one expert has."""
        return sum(self.tensor_bytes(tensor) for tensor in self.tensors())
