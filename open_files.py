"""How many files and connections a daemon may have open."""

from __future__ import annotations

import resource

MANY_FILES = 1 << 18


def allow_many_files() -> None:
    """Lets this process open as many files as its system allows at most.

    Each mapped expert counts as one, and each connection: the usual 1,024 would keep the next node, or client, out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
