"""What an operator may choose about receipts.

Guarantees: values that cannot work together are refused when the settings are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError

MOST_RESULTS = 1 << 14
"""The most results that a receipt waits for."""


@dataclass(frozen=True)
class ReceiptSettings:
    """When receipts are given, and what of them is put on record.

    Attributes:
        results: After so many accepted results a node gets a receipt.
        every_s: After how long it gets one for fewer.
        settle_s: How long after a frame has ended its result may still be found right; receipts reach no further.
        tick_s: How often all this is looked at.
        log_every_s: How often the public log is told of receipts.
        credit_every_s: How often it is told of credits.
    """

    results: int = 1024
    every_s: float = 10.0
    settle_s: float = 5.0
    tick_s: float = 1.0
    log_every_s: float = 60.0
    credit_every_s: float = 3600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise UsageError(f"receipts.{name} is {value}", advice="give a number above zero")
        if self.results > MOST_RESULTS:
            raise UsageError(
                f"receipts.results is {self.results}",
                advice=f"give at most {MOST_RESULTS}: both ends keep them",
            )
