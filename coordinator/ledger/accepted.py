"""A result that was accepted, as it waits for its receipt.

Guarantees: holds nothing of the result itself but what its receipt needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...ids import SessionId
from ...trust.statements import ResultStatement


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the scribe is told of one result."""

    session: SessionId
    sequence: int
    statement: ResultStatement
    layer: int
    experts: npt.NDArray[np.int32]
