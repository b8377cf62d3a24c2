"""A PostgreSQL server that the books are on, as its client sees it.

Guarantees: commits are durable whatever the server's default is; nothing waits for ever for a server that does not answer: not for
a machine that is gone, which the kernel finds out, nor for one that takes what is sent and says nothing, whose connection is cut.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10
"""How long one statement may take, and connecting."""
SILENT_S: Final = 3.0 * PATIENCE_S
"""After how long without an end a transaction's connection is cut."""
_STATEMENTS: Final = (
    "SET synchronous_commit = on",
    "SET TIME ZONE 'UTC'",
    f"SET statement_timeout = '{PATIENCE_S}s'",
    f"SET idle_in_transaction_session_timeout = '{2 * PATIENCE_S}s'",
    f"SET tcp_keepalives_idle = {PATIENCE_S}",
    f"SET tcp_keepalives_interval = {PATIENCE_S // 2}",
    "SET tcp_keepalives_count = 2",
)


def server_arguments() -> dict[str, Any]:
    """What the driver is told when it connects."""
    return {
        "connect_timeout": PATIENCE_S,
        "keepalives": 1,
        "keepalives_idle": PATIENCE_S,
        "keepalives_interval": PATIENCE_S // 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 2000 * PATIENCE_S,
        "application_name": "folkmoot",
    }


def set_up_server(busy_s: float, connection: Any, _: object) -> None:
    """Makes a new connection of the driver's what the books need."""
    with impatient(connection), connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {max(1, int(1000 * busy_s))}")
        for statement in _STATEMENTS:
            cursor.execute(statement)
        connection.commit()


@contextmanager
def impatient(connection: Any) -> Iterator[None]:
    """Cuts a connection of the driver's when what is done with it meanwhile does not end; that then fails as a lost connection does."""
    if connection.closed:
        yield
        return
    # A second descriptor: the driver may close its own meanwhile, and its number would be another's.
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(SILENT_S, _cut, (line,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _cut(line: socket.socket) -> None:
    log.error("the database has not answered for %.0f s: its connection is cut", SILENT_S)
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError as error:  # it ended at this very moment
        log.debug("the connection was gone already: %s", error)
