"""`folkmoot node doctor`: whether this machine is fit to be a node.

Guarantees: the exit code is 0 when nothing has to be mended, else 1; standard output has a line for each finding as it comes, and a
second one below that says how to mend it; with `--json` one object.
"""

from __future__ import annotations

from dataclasses import asdict

import typer

from .node_options import AsJson, Disk, Memory, State, Threads, given
from .terminal import emit, emit_json, quiet_stdout, say


def doctor(
    memory: Memory = None,
    disk: Disk = None,
    threads: Threads = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Look whether this machine is fit, and say what to mend."""
    from ..node.settings import NodeSettings

    limits = given(memory, disk, threads, None, None, None, None, None)
    settings = NodeSettings.load(state_dir=state, **limits)
    with quiet_stdout():
        from ..node.checkup.examine import examine
        from ..node.checkup.finding import Grade

    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            emit(finding.line())
    to_mend = sum(finding.grade is Grade.MEND for finding in findings)
    if as_json:
        document = {"object": "folkmoot.doctor", "fit": not to_mend}
        emit_json({**document, "findings": [asdict(finding) for finding in findings]})
    else:
        say("this machine is fit" if not to_mend else f"{to_mend} to mend")
    raise typer.Exit(1 if to_mend else 0)
