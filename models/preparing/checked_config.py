"""Configurations made by transformers and read by adapters, whose many complaints become one kind of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import StrictDataclassError

from ..safetensors_header import DOWNLOAD_AGAIN, CheckpointError

T = TypeVar("T")


def checked_config(source: str, make: Callable[[], T]) -> T:
    """What `make` returns.

    Args:
        source: The file that the configuration comes from, as the error names it.
        make: Calls transformers, or reads what it made.

    Raises:
        CheckpointError: the configuration makes no sense; says why.
    """
    try:
        return make()
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{source} describes no model that can be used ({reason})", advice=DOWNLOAD_AGAIN
        ) from error
