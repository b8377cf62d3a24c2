"""Python's collector and what lives as long as the process.

Guarantees: nothing but when the collector looks at what changes.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """What exists now is taken to stay: the collector does not look through it again.

    Libraries leave a million objects behind; walking them, with the interpreter's lock held, takes a quarter of a second now and then,
    and every thread stands still for it.
    """
    gc.collect()
    gc.freeze()
