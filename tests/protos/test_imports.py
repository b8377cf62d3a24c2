"""Proven: no generic name of ours (`kernels`, `protos`, `node`) reaches an installed command, and importing
`folkmoot.kernels` or the wire has no side effect: transformers probes for a package `kernels` and must not find a trap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, folder: Path, *arguments: str) -> str:
    """What a program prints that is run as installed commands are: a file elsewhere, with `folder` as working folder."""
    script = folder / "program.py"
    script.write_text(program)
    ran = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    "room", ["kernels", "protos", "trust", "models", "node", "coordinator", "client", "cli"]
)
def test_a_command_run_in_the_root_finds_rooms_only_inside_the_package(room: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from importlib.util import find_spec\n"
        "print(find_spec(sys.argv[1]) is None, find_spec('folkmoot.' + sys.argv[1]) is not None)"
    )
    assert run(program, tmp_path, room).split() == ["True", "True"]


def test_importing_the_kernels_room_loads_nothing_and_registers_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, folkmoot\n"
        "before = set(sys.modules)\n"
        "import folkmoot.kernels as room\n"
        "print(sorted(set(sys.modules) - before))\n"
        "print([name for name in vars(room) if not name.startswith('__')])\n"
        "import torch\n"
        "operators = set(torch._C._dispatch_get_all_op_names())\n"
        "import folkmoot.kernels.formats\n"
        "print(sorted(set(torch._C._dispatch_get_all_op_names()) - operators))\n"
    )
    assert run(program, tmp_path).splitlines() == ["['folkmoot.kernels']", "[]", "[]"]


def test_the_limits_need_neither_torch_nor_grpc(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import folkmoot.protos.limits\n"
        "print([name for name in ('torch', 'grpc', 'google.protobuf') if name in sys.modules])"
    )
    assert run(program, tmp_path).strip() == "[]"
