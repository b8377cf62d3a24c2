"""Model families: where experts lie in a checkpoint, and how a trunk calls them."""

from .adapter import Config, DiskTensor, FamilyAdapter, Reach, UnsupportedModelError
from .catalog import FAMILIES, adapter_for

__all__ = [
    "FAMILIES",
    "Config",
    "DiskTensor",
    "FamilyAdapter",
    "Reach",
    "UnsupportedModelError",
    "adapter_for",
]
