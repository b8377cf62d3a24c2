"""What a model's own generation settings advise for requests that name nothing.

Guarantees: an operator's settings are never overruled; advice that makes no sense is not taken.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .api.settings import ApiSettings

log = logging.getLogger(__name__)

GENERATION_CONFIG = "generation_config.json"
MAX_CONFIG_BYTES = 1 << 20
ADVISED = ("temperature", "top_p", "top_k")


def api_settings(chosen: ApiSettings | None, folder: Path) -> ApiSettings:
    """The operator's settings; else the defaults with what the model in `folder` advises."""
    if chosen is not None:
        return chosen
    advice = _read(folder / GENERATION_CONFIG)
    given = {f"default_{name}": advice[name] for name in ADVISED if _is_number(advice.get(name))}
    if not advice.get("do_sample"):
        return ApiSettings()
    try:
        return ApiSettings(**given)
    except UsageError as error:
        log.warning("what %s advises for sampling is not taken: %s", folder / GENERATION_CONFIG, error)
        return ApiSettings()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s); it is passed over", path, error)
        return {}
    return document if isinstance(document, dict) else {}
