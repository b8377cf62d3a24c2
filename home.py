"""Where Folkmoot keeps what it must remember on this machine.

Guarantees: everything lies below one folder, `FOLKMOOT_HOME` or `.folkmoot` in the user's home folder.
"""

from __future__ import annotations

import os
from pathlib import Path


def folkmoot_home() -> Path:
    """The folder that holds keys, state and prepared models; not necessarily there yet."""
    return Path(os.environ.get("FOLKMOOT_HOME") or Path.home() / ".folkmoot").expanduser().absolute()
