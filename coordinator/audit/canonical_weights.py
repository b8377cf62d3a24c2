"""Canonical bytes as the numbers that sketches, verdicts and evidence are computed with.

Guarantees: every format, layout and activation of the manifest comes out as plain float32 arrays that hold exactly what the
bytes mean (`kernels.quantize.dequantize` defines that); bytes that are not those of the manifest are refused, so a damaged
disk never convicts anybody.

Letters: H hidden size, I intermediate size.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch

from ...errors import ModelError
from ...ids import ExpertKey
from ...kernels.expert import Expert
from ...kernels.formats import ExpertSpec, Layout
from ...kernels.quantize import dequantize
from ...models.manifest import Manifest
from ...trust.expert_arithmetic import Activation, ExpertForm, ExpertWeights, Floats
from ..hub.experts_service import ExpertSource

SIGNIFICAND_BITS: Final = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Of the types of activations, the leading bit included."""


class DamagedExpertError(ModelError):
    """An expert's bytes on this machine are not those of the manifest."""


def expert_form(spec: ExpertSpec, dtype: str) -> ExpertForm:
    """What all experts of a spec share, in a model whose activations are of this type."""
    return ExpertForm(
        Activation(spec.activation.value), spec.alpha, spec.limit, significand_bits=SIGNIFICAND_BITS[dtype]
    )


def expert_weights(spec: ExpertSpec, data: bytes) -> ExpertWeights:
    """An expert's weights from its canonical bytes.

    Raises:
        ExpertBytesError: when the bytes are not as many as the spec says.
    """
    expert = Expert.load(spec, data)
    weights = expert.weights
    if spec.layout.row_major:
        matrices = {role: dequantize(matrix) for role, matrix in expert.matrices.items()}
    else:
        both, down = weights["gate_up"], weights["down"]  # [H, 2I], [I, H]
        halves = (
            (both[:, : spec.intermediate], both[:, spec.intermediate :])
            if spec.layout is Layout.FUSED_TRANSPOSED
            else (both[:, 0::2], both[:, 1::2])
        )
        matrices = {"gate": halves[0].T, "up": halves[1].T, "down": down.T}
    biases = weights.get("gate_up_bias")
    return ExpertWeights(
        gate=_numbers(matrices["gate"]) if "gate" in matrices else None,
        up=_numbers(matrices["up"]),
        down=_numbers(matrices["down"]),
        gate_bias=None if biases is None else _numbers(biases[0::2]),
        up_bias=None if biases is None else _numbers(biases[1::2]),
        down_bias=_numbers(weights["down_bias"]) if "down_bias" in weights else None,
    )


def _numbers(values: torch.Tensor) -> Floats:
    # A copy, always: views over the canonical bytes may be of read-only memory.
    return values.float().contiguous().clone().numpy()


class CanonicalExperts:
    """The experts of one model, read from this machine's disk and checked."""

    def __init__(self, source: ExpertSource) -> None:
        self._source = source

    @property
    def manifest(self) -> Manifest:
        """The model's."""
        return self._source.manifest

    def form(self, key: ExpertKey) -> ExpertForm:
        """What the expert shares with all of its layer. Raises KeyError when the model has no such expert."""
        return expert_form(self.manifest.spec_of(key), self.manifest.dtype)

    def read(self, key: ExpertKey) -> bytes:
        """An expert's canonical bytes.

        Raises:
            KeyError: when the model has no such expert.
            DamagedExpertError: when the bytes have another SHA-256 than the manifest says.
            ModelError: when they cannot be read.
        """
        data = self._source.read_expert(key)
        if hashlib.sha256(data).hexdigest() != self.manifest.experts[key].sha256:
            raise DamagedExpertError(
                f"the bytes of {key} on this machine are not those of the manifest",
                advice="get the checkpoint again, and prepare it: folkmoot model prepare",
            )
        return data

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """An expert's weights; raises as `read` does."""
        return expert_weights(self.manifest.spec_of(key), self.read(key))

    def public(self, key: ExpertKey) -> tuple[ExpertForm, ExpertWeights] | None:
        """Form and weights, None when the model has no such expert: what `check_evidence` asks for."""
        if key not in self.manifest.experts:
            return None
        return self.form(key), self.weights(key)
