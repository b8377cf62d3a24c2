"""The benchmark's model `moe-4l`: OLMoE's shape cut to four layers, with random weights from a seed."""

from __future__ import annotations

from pathlib import Path

from . import random_olmoe
from .random_olmoe import Shape

LAYERS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, HEADS, VOCABULARY = 4, 2048, 1024, 64, 8, 16, 32_000
SEED = 20_240_901
SHAPE = Shape(LAYERS, HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, HEADS, VOCABULARY, SEED)
ACTIVE_BYTES = 2 * (
    LAYERS * (TOP_K * 3 * HIDDEN * INTERMEDIATE + 4 * HIDDEN**2 + EXPERTS * HIDDEN) + VOCABULARY * HIDDEN
)
"""Bytes of weights that one token of one stream reads: its experts, attention, routers and the head."""


def make(folder: Path) -> Path:
    """Writes the checkpoint to `folder`, unless it is there already, and returns the folder."""
    return random_olmoe.make(folder, SHAPE)
