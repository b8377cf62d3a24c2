"""What an operator may choose about probes.

Guarantees: values that cannot work are refused when the settings are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError

MOST_EXPERTS, MOST_ROWS = 256, 64


@dataclass(frozen=True)
class ProbeSettings:
    """How nodes are tried before they get traffic.

    Attributes:
        enabled: Whether they are at all.
        experts: Experts that one probe asks about at most, drawn from all that the node has new, each of another layer where
            there are so many. Each that nobody was asked about before is read and computed in float64 once.
        rows: Rows for each of them.
        busy_share: The share of the coordinator's time that probes of one node may take while it still downloads.
    """

    enabled: bool = True
    experts: int = 4
    rows: int = 2
    busy_share: float = 0.1

    def __post_init__(self) -> None:
        if not (1 <= self.experts <= MOST_EXPERTS and 1 <= self.rows <= MOST_ROWS):
            raise UsageError(
                f"probes of {self.experts} experts with {self.rows} rows each cannot be",
                advice=f"give 1 to {MOST_EXPERTS} experts and 1 to {MOST_ROWS} rows",
            )
        if not 0 < self.busy_share <= 1:
            raise UsageError(
                f"a busy_share of {self.busy_share} cannot be", advice="give a share above 0, up to 1"
            )
