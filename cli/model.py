"""`folkmoot model`: make a checkpoint ready to be served, and look at what was made."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..amounts import format_bytes
from .terminal import emit, emit_json, quiet_stdout, say

if TYPE_CHECKING:
    from ..models.prepare import Signer
    from ..models.prepared import PreparedModel

app = typer.Typer(help="Prepare models, and look at prepared ones.")


@app.command(short_help="Make a model ready to be served.")
def prepare(
    source: Annotated[
        str, typer.Argument(help="A checkpoint folder (safetensors), a GGUF file, or `default`.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where it goes; below ~/.folkmoot/models.", show_default=False)
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(min=1, help="Into how many experts a dense model is cut.", show_default=False),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as published.", show_default=False)
    ] = None,
    weight_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Store experts as int8, int8_channel, int4, float32, bfloat16 or float16; as published.",
            show_default=False,
        ),
    ] = None,
    published_at: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME@REVISION",
            help="Where a model hub has these files, so that nodes can fetch experts there; known of a hub's cache folder.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="The state folder of the coordinator that will serve it; ~/.folkmoot/operator.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make trunk, experts and signed manifest of a model; prints the folder to serve."""
    with quiet_stdout():
        prepared = prepare_signed(
            source,
            out,
            slices=slices,
            dtype=dtype,
            weight_format=weight_format,
            published_at=published_at,
            state=state,
        )
    manifest = prepared.manifest
    say(f"{manifest.name}: {len(manifest.experts)} experts, {format_bytes(manifest.total_expert_bytes)}")
    emit(str(prepared.folder))


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A prepared model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a prepared model is."""
    with quiet_stdout():
        from ..models.prepared import PreparedModel

        facts = facts_of(PreparedModel.open(folder))
    if as_json:
        emit_json(facts)
        return
    signer = f"{facts['signed_by']} ({facts['signature']})" if facts["signed_by"] else "nobody"
    emit(f"name       {facts['name']}")
    emit(f"family     {facts['family']}{', dense, cut into slices' if facts['sliced'] else ''}")
    emit(f"layers     {facts['layers']} with experts")
    emit(f"experts    {facts['experts']}, {facts['top_k']} a token")
    emit(f"bytes      {format_bytes(facts['bytes'])} in {facts['files']} files")
    emit(f"format     {facts['format']}, activations {facts['activation_dtype']}")
    emit(f"layout     {facts['layout']}")
    emit(f"published  {facts['published'] or 'nowhere that is known'}")
    emit(f"digest     {facts['digest']}")
    emit(f"signed by  {signer}")


def prepare_signed(
    source: str,
    out: Path | None = None,
    *,
    slices: int | None = None,
    dtype: str | None = None,
    weight_format: str | None = None,
    published_at: str | None = None,
    state: Path | None = None,
) -> PreparedModel:
    """Prepares a model and its audits with progress on standard error, signed by this machine's operator."""
    say("loading what reads models")
    from ..coordinator.audit.preparing import prepare_audits
    from ..coordinator.settings import CoordinatorSettings
    from ..models.prepare import prepare
    from .progress import terminal_progress

    prepared = prepare(
        source,
        out,
        slices=slices,
        dtype=dtype,
        weight_format=weight_format,
        published_at=published_at,
        sign=_operator_signature(),
        progress=terminal_progress(),
    )
    settings = CoordinatorSettings.load(model=prepared.folder, state_dir=state)
    if settings.audit.enabled:
        prepare_audits(prepared, settings.state_dir, settings.audit, terminal_progress())
    return prepared


def _operator_signature() -> Signer:
    from ..home import folkmoot_home
    from ..trust.keys import Identity
    from ..trust.statements import manifest_statement

    identity = Identity.load_or_create(folkmoot_home() / "operator" / "identity.key")
    return lambda digest: (identity.public, identity.sign(manifest_statement(digest)))


def facts_of(model: PreparedModel) -> dict[str, Any]:
    """What `inspect` tells of a model."""
    manifest = model.manifest
    used = Counter(entry.spec for entry in manifest.experts.values())
    specs = [manifest.specs[index] for index, _ in used.most_common()]
    return {
        "name": manifest.name,
        "family": manifest.family,
        "sliced": manifest.sliced,
        "layers": len(manifest.layers),
        "experts": len(manifest.experts),
        "top_k": manifest.top_k,
        "bytes": manifest.total_expert_bytes,
        "files": len(manifest.files),
        "format": ", ".join(dict.fromkeys(spec.dtype for spec in specs)),
        "activation_dtype": manifest.dtype,
        "layout": ", ".join(dict.fromkeys(spec.layout.value for spec in specs)),
        "published": str(manifest.published) if manifest.published else None,
        "digest": manifest.digest.hex(),
        "signed_by": model.signature.key.hex() if model.signature else None,
        "signature": _judge(model),
    }


def _judge(model: PreparedModel) -> str:
    """`valid`, `wrong` or `missing`."""
    from ..errors import TrustError
    from ..trust.keys import VerifyingKey
    from ..trust.statements import manifest_statement

    if model.signature is None:
        return "missing"
    try:
        statement = manifest_statement(model.manifest.digest)
        VerifyingKey(model.signature.key).verify(model.signature.signature, statement)
    except TrustError:
        return "wrong"
    return "valid"
