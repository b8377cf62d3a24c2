"""The HTTP face of a coordinator: OpenAI's API to the letter that clients depend on, and `/v1/network`."""

from .app import create_app
from .metrics import RequestMetrics
from .settings import ApiSettings

__all__ = ["ApiSettings", "RequestMetrics", "create_app"]
