"""What is known of the audits that a step's tokens wait for.

Guarantees: `done` only when the step has run to its end and every result that it consumed with rows of an audited answer was
found right. What comes from the auditor is handed on to whoever made it; everything else belongs to the roster's lock, but for
`wanted`, which any thread may ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ...errors import FolkmootError


class StepAudits:
    """Those of one step: a `folkmoot.models.pool.AuditedStep`.

    Attributes:
        rows: [T], whether a packed token belongs to an audited answer.
        members: The answers, by arrival, that wait.
        passed_count: Results that were found right.
        error: Why some result cannot be audited.
    """

    def __init__(
        self,
        rows: npt.NDArray[np.bool_],
        members: Iterable[int],
        tell: Callable[[StepAudits, FolkmootError | None], None],
    ) -> None:
        """`tell` is called from the auditor's thread, for each result."""
        self.rows = rows
        self.members = set(members)
        self.passed_count = 0
        self.error: FolkmootError | None = None
        self._expected: int | None = None
        self._tell = tell

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits."""
        return bool(self.members)

    def passed(self) -> None:
        """One more result was found right."""
        self._tell(self, None)

    def impossible(self, error: FolkmootError) -> None:
        """A result cannot be audited."""
        self._tell(self, error)

    def expect(self, results: int) -> None:
        """The step has run to its end; so many results are to be found right."""
        self._expected = results

    @property
    def done(self) -> bool:
        """Whether all of them were."""
        return self._expected is not None and self.passed_count >= self._expected
