"""The tensors of one expert of a prepared model, read back through its ranges."""

from __future__ import annotations

import torch

from folkmoot.ids import ExpertKey
from folkmoot.models.prepared import PreparedModel


def expert_tensors(model: PreparedModel, key: ExpertKey) -> dict[str, torch.Tensor]:
    """Each tensor of an expert by its role."""
    spec, data, start = model.manifest.spec_of(key), model.read_expert(key), 0
    found = {}
    for tensor in spec.tensors():
        length = spec.tensor_bytes(tensor)
        part = bytearray(data[start : start + length])
        found[tensor.role] = torch.frombuffer(part, dtype=tensor.dtype).view(tensor.shape)
        start += length
    return found
