"""A model that is only experts: a manifest and canonical bytes in memory, for tests that need no trunk.

Guarantees: the same arguments give the same bytes; it reads like a prepared model, and counts what is read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache

import torch

from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import ExpertSpec, Layout
from folkmoot.models.manifest import ByteRange, ExpertEntry, Manifest, SourceFile


class MemoryExperts:
    """Experts of `layers` x `experts`, each `hidden` x `intermediate`, float32."""

    def __init__(
        self,
        *,
        layers: tuple[int, ...] = (0, 1),
        experts: int = 4,
        hidden: int = 16,
        intermediate: int = 8,
        sliced: bool = False,
        seed: int = 0,
    ) -> None:
        spec = ExpertSpec(hidden, intermediate, "float32", Layout.SEPARATE)
        generator = torch.Generator().manual_seed(seed)
        keys = [ExpertKey(layer, expert) for layer in layers for expert in range(experts)]
        self._bytes = {
            key: torch.randn(spec.expert_bytes // 4, generator=generator).numpy().tobytes() for key in keys
        }
        entries = {}
        offset = 0
        for key in keys:
            ranges = []
            for tensor in spec.tensors():
                ranges.append(ByteRange(0, offset, spec.tensor_bytes(tensor)))
                offset += spec.tensor_bytes(tensor)
            digest = hashlib.sha256(self._bytes[key]).hexdigest()
            entries[key] = ExpertEntry(key, 0, tuple(ranges), digest)
        self.manifest = Manifest(
            name="tiny-experts",
            family="mixtral",
            top_k=2,
            dtype="float32",
            sliced=sliced,
            files=(SourceFile("experts.safetensors", offset),),
            specs=(spec,),
            experts=entries,
        )
        self.reads: Counter[ExpertKey] = Counter()
        self.expert = cache(self._expert)

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        """Canonical bytes of an expert."""
        self.reads[key] += 1
        end = None if length is None else offset + length
        return self._bytes[key][offset:end]

    def _expert(self, key: ExpertKey) -> Expert:
        return Expert.load(self.manifest.spec_of(key), self._bytes[key])

    def answer(
        self, layer: int, hidden: torch.Tensor, expert_ids: torch.Tensor, gates: torch.Tensor
    ) -> torch.Tensor:
        """What any pool must give for this call: [T, H] float32."""
        groups = []
        for expert in range(int(expert_ids.max()) + 1 if expert_ids.numel() else 0):
            rows, slots = (expert_ids == expert).nonzero(as_tuple=True)
            if rows.numel():
                groups.append(Group(self.expert(ExpertKey(layer, expert)), rows, gates[rows, slots]))
        return feed_forward(groups, hidden)

    def routing(
        self, rows: int, *, top_k: int = 2, seed: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A random call: hidden [T, H], expert ids [T, K], gates [T, K]."""
        generator = torch.Generator().manual_seed(seed)
        experts = len(next(iter(self.manifest.layers.values())))
        hidden = torch.randn(rows, self.manifest.hidden, generator=generator)
        ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(rows)])
        return hidden, ids, torch.rand(rows, top_k, generator=generator)
