"""A child can be kept on some of the machine's cores, all of its threads together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from folkmoot.cli.child import Child


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux can say where a process runs")
def test_every_thread_stays_on_the_cores_it_was_given(tmp_path: Path) -> None:
    core = {min(os.sched_getaffinity(0))}
    child = Child("a node", ["node", "join", "-", "--state", str(tmp_path / "node")], tmp_path / "node.log")
    try:
        child.stay_on(core)
        tasks = list(Path(f"/proc/{child.pid}/task").iterdir())
        assert tasks and all(os.sched_getaffinity(int(task.name)) == core for task in tasks)
    finally:
        child.ask_to_end()
        child.end()
