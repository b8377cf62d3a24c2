"""What libraries leave in a process's memory for good, and how little it can be.

Guarantees: no result depends on any of this.
"""

from __future__ import annotations

import gc
import sys


def settle() -> None:
    """What exists now is taken to stay: the collector does not look through it again.

    Libraries leave a million objects behind; walking them, with the interpreter's lock held, takes a quarter of a second now and then,
    and every thread stands still for it.
    """
    gc.collect()
    gc.freeze()


def leave_out(package: str) -> None:
    """To whoever wants to import it from now on a package is not installed, unless somebody has imported it already.

    For what libraries import wherever they find it, and this process never uses.
    """
    sys.modules.setdefault(package, None)  # type: ignore[arg-type]
