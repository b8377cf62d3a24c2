"""How daemons log: lines that a person reads, or one JSON object a line; always on standard error.

Guarantees: whatever is logged is one line in the JSON form, and begins a line in the other; a record says which coordinator it
is about wherever it was made by a task that works for one. Nothing else sets logging up.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum

DEBUG_VARIABLE = "FOLKMOOT_DEBUG"
ROOT = "folkmoot."
CHATTY = ("httpx", "httpcore", "urllib3", "filelock", "asyncio")

working_for: ContextVar[str] = ContextVar("working_for", default="")
"""The name of the coordinator that a task works for; tasks that it starts inherit it, and so do threads that are started in a copy of its
context (of themselves only from Python 3.14 on, and not in every build)."""


class LogFormat(StrEnum):
    """What lines look like."""

    TEXT = "text"
    JSON = "json"


class _TextFormatter(logging.Formatter):
    """`2026-01-31 22:00:00 warning  node.link [london]: what happened`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        about = f" [{name}]" if (name := working_for.get()) else ""
        return f"{moment} {level}{record.name.removeprefix(ROOT)}{about}: {record.message}"


class _JsonFormatter(logging.Formatter):
    """One object: time (UTC), level, logger, message; `coordinator` and `trace` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := working_for.get():
            document["coordinator"] = name
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


class _Handler(logging.Handler):
    """Ours, among others that a program may have; writes to what is standard error at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except OSError:
            return  # nobody reads it: that is no reason to stop


def configure_logging(form: LogFormat = LogFormat.TEXT) -> None:
    """Logs to standard error: what operators need, or everything with `--debug`. May be called again, with another form."""
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    handler = _Handler()
    handler.setFormatter(_JsonFormatter() if form is LogFormat.JSON else _TextFormatter())
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, _Handler)), handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.NOTSET if debug else logging.WARNING)
