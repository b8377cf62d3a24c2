"""What a node, or a contributor, is owed.

Guarantees: whole numbers of any size, which only grow by `plus`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Credit:
    """Work that receipts cover.

    Attributes:
        results: Results accepted.
        rows: Pairs of a row and an expert in them.
        row_bytes: The sum over these of the expert's canonical bytes: what work is measured by.
    """

    results: int = 0
    rows: int = 0
    row_bytes: int = 0

    def plus(self, results: int, rows: int, row_bytes: int) -> Credit:
        """With more work."""
        return Credit(self.results + results, self.rows + rows, self.row_bytes + row_bytes)

    def __add__(self, other: Credit) -> Credit:
        return self.plus(other.results, other.rows, other.row_bytes)
