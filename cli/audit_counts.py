"""`folkmoot coordinator audits`: what audits have come to, for the operator alone."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from .orders import State
from .terminal import emit


class NoCountsError(UsageError):
    """There are no counts of audits here."""


def audits(state: State = None) -> None:
    """Print the exact counts of audits, as Prometheus reads them; they are not on /metrics, for nodes could learn from them."""
    from ..coordinator.audit.private_counts import COUNTS_FILE
    from ..coordinator.settings import CoordinatorSettings

    # Only the state folder is asked for; any model does.
    path = CoordinatorSettings.load(model=Path(), state_dir=state).state_dir / COUNTS_FILE
    try:
        text = path.read_text()
    except OSError as error:
        raise NoCountsError(
            f"{path} cannot be read ({error.strerror})",
            advice="name the state folder of a coordinator that audits, and run this as its user: --state DIR",
        ) from error
    emit(text.rstrip("\n"))
