"""Why the engine does not take a request, or cannot finish it."""

from __future__ import annotations

from ...errors import CapacityError, FolkmootError, UnavailableError
from .requests import ParameterError


class PromptTooLongError(ParameterError):
    """A prompt, or a prompt with the answer that was asked for, is longer than a sequence can be.

    Args:
        param: "prompt", or "max_tokens" when the prompt alone would fit.
    """

    code = "context_length_exceeded"


class OverloadedError(CapacityError):
    """Too many requests wait already.

    Args:
        retry_after_s: When to come again.
    """

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.retry_after_s = retry_after_s


class NotCoveredError(UnavailableError):
    """Some expert that the answer needs had no host for longer than a request waits.

    Args:
        retry_after_s: When to come again.
    """

    code = "experts_not_covered"

    def __init__(self, message: str, *, retry_after_s: float, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.retry_after_s = retry_after_s


class NotAuditedError(ParameterError):
    """An audited answer was asked for where nothing is audited."""

    code = "audits_disabled"


class EngineClosedError(UnavailableError):
    """The engine was closed before the answer was complete."""


class EngineFault(FolkmootError):
    """A step failed in a way that nobody foresaw; the log has the trace."""
