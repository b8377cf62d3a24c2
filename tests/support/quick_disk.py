"""Where tests write that write thousands of files and sync each: a file system in memory, or the usual one where there is none.

For tests that decide themselves what a disk keeps: what the machine's own would keep, they do not ask.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

_IN_MEMORY: Final = Path("/dev/shm")  # where Linux has it

QUICK_DISK: Final = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
"""A folder for temporary folders."""
