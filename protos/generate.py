"""Generates the modules under `protos/folkmoot/v1` from the `.proto` files beside them.

Guarantees: the same inputs and the pinned grpcio-tools give the same bytes, so `--check` can compare what is checked in
with what would be generated now. The import path of a generated module is its path in the package `folkmoot`.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "folkmoot" / "v1"
PINNED_TOOLS = "1.76.0"


def generate(into: Path) -> list[Path]:
    """Writes all generated modules below `into` and returns their paths relative to it.

    Raises:
        SystemExit: when the installed grpcio-tools is not the pinned one, or a `.proto` file does not compile.
    """
    from importlib.metadata import version
    from importlib.resources import files

    from grpc_tools import protoc

    if version("grpcio-tools") != PINNED_TOOLS:
        raise SystemExit(
            f"generate with grpcio-tools {PINNED_TOOLS}, not {version('grpcio-tools')}: make setup installs it"
        )
    protos = [f"folkmoot/protos/folkmoot/v1/{path.name}" for path in sorted(SOURCES.glob("*.proto"))]
    arguments = ["protoc", f"-Ifolkmoot/protos={HERE}", f"-I{files('grpc_tools') / '_proto'}"]
    arguments += [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # By path: the environment's programs need not be on PATH when its Python was called by name.
    programs = Path(sysconfig.get_path("scripts"))
    arguments += [
        f"--plugin=protoc-gen-{kind}={programs}/protoc-gen-{kind}" for kind in ("mypy", "mypy_grpc")
    ]
    if protoc.main([*arguments, *protos]) != 0:
        raise SystemExit("protoc failed: see the lines above")
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2*.py*"))


def main() -> None:
    """`python protos/generate.py [--check]`: regenerate in place, or fail if what is checked in is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a checked-in module is not current"
    )
    check = parser.parse_args().check
    stale = []
    with tempfile.TemporaryDirectory() as folder:
        for relative in generate(Path(folder)):
            new = (Path(folder) / relative).read_bytes()
            target = SOURCES / relative.name
            if not target.exists() or target.read_bytes() != new:
                stale.append(relative.name)
                if not check:
                    target.write_bytes(new)
    if check and stale:
        sys.exit(f"not current: {', '.join(stale)}: run `make protos`")
    print(f"protos: {'all current' if not stale else 'wrote ' + ', '.join(stale)}", file=sys.stderr)


if __name__ == "__main__":
    main()
