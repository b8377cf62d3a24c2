"""The tree keeps its own rules: rooms import only rooms below them, files stay short, and nothing unsafe is loaded."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
BELOW: dict[str, set[str]] = {
    "protos": set(),
    "kernels": set(),
    "trust": set(),
    "models": {"kernels"},
    "node": {"protos", "kernels", "trust", "models"},
    "coordinator": {"protos", "kernels", "trust", "models"},
    "client": set(),
    "cli": {"protos", "kernels", "trust", "models", "node", "coordinator", "client"},
    "bench": {"protos", "kernels", "trust", "models", "node", "coordinator", "client", "cli"},
}
"""For each room, the rooms that it may import."""
UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def sources() -> list[Path]:
    """Every Python file that people wrote, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.split() if listed.returncode == 0 else [str(path) for path in ROOT.rglob("*.py")]
    paths = [Path(name) for name in names if "_pb2" not in name]
    return [path for path in paths if (ROOT / path).exists() and path.parts[0] not in (".venv", "build")]


@functools.cache
def tree(path: Path) -> ast.Module:
    """What a file says."""
    return ast.parse((ROOT / path).read_text())


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """The rooms that a file imports, with line numbers; relative and absolute imports alike."""
    package = path.parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            targets = [names] if names else [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = [node.module.split(".")[1:]] if (node.module or "").startswith("folkmoot.") else []  # type: ignore[union-attr]
        elif isinstance(node, ast.Import):
            targets = [
                alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("folkmoot.")
            ]
        else:
            continue
        for target in targets:
            if target and target[0] in BELOW:
                yield node.lineno, target[0]


def test_there_is_something_to_check() -> None:
    assert {path.parts[0] for path in sources()} >= set(BELOW)


@pytest.mark.parametrize("room", sorted(BELOW))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    wrong = [
        f"{path}:{line} imports {other}"
        for path in sources()
        if path.parts[0] == room
        for line, other in imported_rooms(path)
        if other != room and other not in BELOW[room]
    ]
    assert not wrong


def test_no_file_is_too_long() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources()}
    assert not {str(path): length for path, length in lengths.items() if length > LONGEST}


def test_every_module_says_what_it_is() -> None:
    missing = [str(path) for path in sources() if not ast.get_docstring(tree(path))]
    assert not missing


def unsafe(node: ast.stmt | ast.expr) -> bool:
    """Whether a node loads or runs what bytes from outside say."""
    match node:
        case ast.Import():
            return any(alias.name in UNSAFE for alias in node.names)
        case ast.ImportFrom():
            return node.module in UNSAFE
        case ast.Call():
            return ast.unparse(node.func) in ("torch.load", "eval", "exec")
    return False


def test_nothing_unsafe_is_loaded() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.stmt | ast.expr) and unsafe(node)
    ]
    assert not found


def test_the_client_and_the_command_start_without_torch() -> None:
    program = (
        "import sys, folkmoot.client, folkmoot.cli.main; "
        "sys.exit(', '.join(m for m in ('torch', 'transformers', 'grpc') if m in sys.modules) or None)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_importing_kernels_from_the_root_registers_nothing() -> None:
    """With the root on `sys.path`, transformers' probe for the public package `kernels` finds our folder."""
    program = (
        "import sys; before = set(sys.modules); import kernels; "
        "sys.exit(', '.join(sorted(set(sys.modules) - before - {'kernels'})) + "
        "', '.join(name for name in vars(kernels) if not name.startswith('__')) or None)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
