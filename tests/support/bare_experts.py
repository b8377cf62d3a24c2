"""A tiny model that is nothing but experts: a manifest, random weights of a fixed seed, and what they should answer.

Guarantees: equal arguments make equal bytes; expert numbers and sizes are small enough for thousands of frames a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import DTYPES, ExpertSpec, Layout
from folkmoot.models.manifest import ByteRange, ExpertEntry, Manifest, SourceFile


@dataclass(frozen=True)
class BareExperts:
    """Experts of `layers` layers, in one imaginary file."""

    manifest: Manifest
    blobs: dict[ExpertKey, bytes]

    @classmethod
    def make(
        cls,
        *,
        layers: Sequence[int] = (1, 2),
        experts: int = 4,
        hidden: int = 32,
        intermediate: int = 16,
        dtype: str = "float32",
        seed: int = 0,
        distinct: bool = True,
    ) -> BareExperts:
        """Random weights; the same for all when they are not to be distinct."""
        spec = ExpertSpec(hidden, intermediate, dtype, Layout.SEPARATE)
        generator = torch.Generator().manual_seed(seed)
        blobs, entries, offset = {}, {}, 0
        for key in (ExpertKey(layer, expert) for layer in layers for expert in range(experts)):
            if not distinct:
                generator.manual_seed(seed)
            weights = torch.randn(spec.expert_bytes // DTYPES[dtype].itemsize, generator=generator) * 0.2
            blob = bytes(weights.to(DTYPES[dtype]).view(torch.uint8).numpy().data)
            ranges = []
            for tensor in spec.tensors():
                ranges.append(ByteRange(0, offset, spec.tensor_bytes(tensor)))
                offset += spec.tensor_bytes(tensor)
            blobs[key] = blob
            entries[key] = ExpertEntry(key, 0, tuple(ranges), hashlib.sha256(blob).hexdigest())
        manifest = Manifest(
            name=f"tiny-{seed}",
            family="tiny",
            top_k=2,
            dtype=dtype,
            sliced=False,
            files=(SourceFile("experts.bin", offset),),
            specs=(spec,),
            experts=entries,
        )
        return cls(manifest, blobs)

    @property
    def keys(self) -> list[ExpertKey]:
        """Every expert, in order."""
        return sorted(self.blobs)

    @property
    def expert_bytes(self) -> int:
        """The size of each."""
        return self.manifest.specs[0].expert_bytes

    def forward(
        self, layer: int, hidden: torch.Tensor, pairs: Sequence[tuple[int, int, float]]
    ) -> torch.Tensor:
        """What a node should answer: [R, H] float32 for pairs of expert, row and gate in canonical order."""
        groups = []
        for number in dict.fromkeys(expert for expert, _, _ in pairs):
            mine = [(row, gate) for expert, row, gate in pairs if expert == number]
            groups.append(
                Group(
                    Expert.load(self.manifest.specs[0], bytearray(self.blobs[ExpertKey(layer, number)])),
                    torch.tensor([row for row, _ in mine]),
                    torch.tensor([gate for _, gate in mine]),
                )
            )
        return feed_forward(groups, hidden)
