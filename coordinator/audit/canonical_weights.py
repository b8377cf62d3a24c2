"""Canonical bytes as the numbers that sketches, verdicts and evidence are computed with.

Guarantees: every format, layout and activation of the manifest comes out as plain float32 arrays that hold exactly what the
bytes mean (`kernels.quantize.dequantize` defines that); bytes that are not those of the manifest are refused, so a damaged
disk never convicts anybody.

Letters: H hidden size, I intermediate size.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Final

import torch

from ...errors import ModelError
from ...ids import ExpertKey
from ...kernels.by_rows import by_rows
from ...kernels.expert import Expert
from ...kernels.formats import ExpertSpec
from ...kernels.quantize import dequantize
from ...kernels.weight_memory import weight_memory
from ...models.manifest import Manifest
from ...trust.expert_arithmetic import Activation, ExpertForm, ExpertWeights, Floats
from ..hub.experts_service import ExpertSource

READ_BYTES: Final = 1 << 20
SIGNIFICAND_BITS: Final = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Of the types of activations, the leading bit included."""


class DamagedExpertError(ModelError):
    """An expert's bytes on this machine are not those of the manifest."""


def expert_form(spec: ExpertSpec, dtype: str) -> ExpertForm:
    """What all experts of a spec share, in a model whose activations are of this type."""
    return ExpertForm(
        Activation(spec.activation.value), spec.alpha, spec.limit, significand_bits=SIGNIFICAND_BITS[dtype]
    )


def expert_weights(expert: Expert) -> ExpertWeights:
    """An expert's weights as plain arrays."""
    parts = by_rows(expert)
    arrays = {role: _numbers(dequantize(matrix)) for role, (matrix, _) in parts.items()}
    biases = {role: _numbers(bias) for role, (_, bias) in parts.items() if bias is not None}
    return ExpertWeights(
        gate=arrays.get("gate"),
        up=arrays["up"],
        down=arrays["down"],
        gate_bias=biases.get("gate"),
        up_bias=biases.get("up"),
        down_bias=biases.get("down"),
    )


def _numbers(values: torch.Tensor) -> Floats:
    # Views over the canonical bytes may be of memory that is only lent: what is returned never is.
    wide = values.float().contiguous()
    return (wide if wide.data_ptr() != values.data_ptr() else wide.clone()).numpy()


class CanonicalExperts:
    """The experts of one model, read from this machine's disk and checked.

    Attributes:
        in_turn: Held by whoever works with whole experts, so that never two are in memory at once for audits' sake.
    """

    def __init__(self, source: ExpertSource) -> None:
        self._source = source
        self.in_turn = threading.RLock()

    @property
    def manifest(self) -> Manifest:
        """The model's."""
        return self._source.manifest

    def form(self, key: ExpertKey) -> ExpertForm:
        """What the expert shares with all of its layer. Raises KeyError when the model has no such expert."""
        return expert_form(self.manifest.spec_of(key), self.manifest.dtype)

    def load(self, key: ExpertKey) -> Expert:
        """An expert, in memory of its own.

        Raises:
            KeyError: when the model has no such expert.
            DamagedExpertError: when its bytes have another SHA-256 than the manifest says.
            ModelError: when they cannot be read.
        """
        digest, data = hashlib.sha256(), weight_memory(self.manifest.expert_bytes(key))
        for start in range(0, len(data), READ_BYTES):
            part = self._source.read_expert(key, start, READ_BYTES)
            digest.update(part)
            data[start : start + len(part)] = part
        if digest.hexdigest() != self.manifest.experts[key].sha256:
            raise DamagedExpertError(
                f"the bytes of {key} on this machine are not those of the manifest",
                advice="get the checkpoint again, and prepare it: folkmoot model prepare",
            )
        return Expert.load(self.manifest.spec_of(key), data)

    def weights(self, key: ExpertKey) -> ExpertWeights:
        """An expert's weights as plain arrays; raises as `load` does."""
        return expert_weights(self.load(key))

    def public(self, key: ExpertKey) -> tuple[ExpertForm, ExpertWeights] | None:
        """Form and weights, None when the model has no such expert: what `check_evidence` asks for."""
        if key not in self.manifest.experts:
            return None
        return self.form(key), self.weights(key)
