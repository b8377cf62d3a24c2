"""The Python client of a Folkmoot network, and the terminal chat. Imports no torch."""

from .answer import Answer
from .api import FolkmootClient

__all__ = ["Answer", "FolkmootClient"]
