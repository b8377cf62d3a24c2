"""The HTTP face of a coordinator: OpenAI's API to the letter that clients depend on, and `/v1/network`."""

from .app import create_app
from .settings import ApiSettings

__all__ = ["ApiSettings", "create_app"]
