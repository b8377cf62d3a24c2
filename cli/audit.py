"""`folkmoot audit`: check evidence against a node, with no network and no trust in anybody.

Guarantees: each step of a check is printed as it is done; the exit code is 0 when the evidence proves that the node's signed
result was wrong, 1 when it does not, 2 when the file is no evidence. A model that cannot be read ends as all errors do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .terminal import emit

app = typer.Typer(help="Check evidence against nodes.")


class EvidenceFileError(UsageError):
    """A file that should hold evidence cannot be read."""


@app.callback()
def group() -> None:
    """Check evidence against nodes."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An evidence file.")],
    model: Annotated[Path, typer.Option(help="The prepared model that the network runs.")],
    operator: Annotated[
        str | None,
        typer.Option(
            help="The coordinator's public key in hexadecimal; the one in the file.", show_default=False
        ),
    ] = None,
) -> None:
    """Check an evidence file against the public model, step by step."""
    from ..coordinator.audit.canonical_weights import CanonicalExperts
    from ..models.prepared import PreparedModel
    from ..trust.evidence_check import Outcome, PublicModel, check_bytes

    data = _read(file)
    key = _key(operator) if operator is not None else None
    prepared = PreparedModel.open(model)
    public = PublicModel(prepared.manifest.encoded, CanonicalExperts(prepared).public)
    outcome = Outcome.NOT_PROVEN
    for step in check_bytes(data, public, key):
        emit(f"{'ok' if step.held else 'NO':<4}{step.name:<15}{step.detail}")
        outcome = step.outcome or outcome
    emit(outcome.value)
    raise typer.Exit(outcome.exit_code)


def _read(file: Path) -> bytes:
    from ..trust.evidence import MAX_EVIDENCE_BYTES

    try:
        with file.open("rb") as stream:
            return stream.read(MAX_EVIDENCE_BYTES + 1)
    except OSError as error:
        raise EvidenceFileError(
            f"{file} cannot be read ({error.strerror})", advice="name an evidence file"
        ) from error


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise EvidenceFileError(
            "the operator's key is not 64 hexadecimal digits", advice="ask the operator for it"
        )
    return key
