"""Makes a prepared model out of a checkpoint: trunk, experts and signed manifest.

Guarantees: experts that lie in safetensors are hashed and referred to, not copied, and neither is the trunk; what has to
be made (slices of a dense model, anything out of GGUF, experts in another weight format) is written once, streaming; memory
is bounded whatever the model's size. The output folder appears whole or not at all, and preparing the same thing again costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import ModelError, UsageError
from ..home import folkmoot_home
from ..kernels.formats import DTYPES
from .checkpoint import NoSuchModelError
from .default_model import DEFAULT, DEFAULT_NAME, fetch_default
from .manifest import Manifest
from .prepared import MANIFEST, SIGNATURE, ManifestSignature, PreparedModel, write_signature
from .preparing.chosen_format import chosen_format
from .preparing.gguf_model import prepare_gguf
from .preparing.order import Order, Parts
from .preparing.output_folder import check_usable, is_prepared, pending_folder
from .preparing.safetensors_model import prepare_safetensors
from .progress import Progress, Silent
from .publication import Publication
from .source_table import SOURCE, SourceTable, SourceTableError

Signer = Callable[[bytes], tuple[bytes, bytes]]
"""Takes a manifest's digest; returns the operator's public key and its signature over the manifest statement."""


def prepare(
    source: str,
    out: Path | None = None,
    *,
    slices: int | None = None,
    dtype: str | None = None,
    weight_format: str | None = None,
    published_at: str | None = None,
    sign: Signer | None = None,
    progress: Progress | None = None,
) -> PreparedModel:
    """Prepares a model, or finds that it is prepared already.

    Args:
        source: A checkpoint folder, a GGUF file, or `default`.
        out: Where the prepared model goes; None means below Folkmoot's home, under the model's name.
        slices: Into how many experts a dense model's feed-forward is cut; None chooses.
        dtype: The type that the trunk computes in and that weights get which are written anew; None keeps what is
            published, or bfloat16 for GGUF.
        weight_format: The format that experts are stored in, such as `int8`, `int4` or `bf16`; they are written anew then,
            row by row, and the name that is chosen where `out` is None ends with it. None keeps what is published.
        published_at: Where the checkpoint's files are published, as OWNER/NAME@REVISION with a URL in front or not, so that nodes can
            take experts from a model hub; None finds out where the checkpoint lies in the hub's own cache.
        sign: Signs the manifest; None leaves it unsigned.
        progress: Told how far the work is.

    Raises:
        UsageError: the source, the folder or an option makes no sense.
        ModelError: the checkpoint is missing, damaged or not supported.
        CapacityError: the disk is too small.
        UnavailableError: the default model cannot be fetched.
    """
    progress = progress or Silent()
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"there is no weight type {dtype!r}", advice=f"choose one of {', '.join(DTYPES)}")
    form = chosen_format(weight_format)
    if out is not None:
        out = out.expanduser().absolute()
        check_usable(out)
    path = _find(source, progress)
    name = DEFAULT_NAME if source == DEFAULT else out.name if out is not None else _name_of(path)
    if out is None:
        name = name if form is None else f"{name}-{form}"
        out = folkmoot_home() / "models" / name
    check_usable(out)
    published = Publication.of_cache(path) if published_at is None else Publication.parse(published_at)
    order = Order(path, name, slices, dtype, form, progress, published)
    if is_prepared(out):
        model = _reuse(out, order)
        if model is not None:
            return _signed_again(model, sign)
    with pending_folder(out) as folder:
        make = prepare_safetensors if path.is_dir() else prepare_gguf
        parts = make(order, folder)
        if published_at is not None and not _as_published(parts, order):
            raise UsageError(
                f"the experts of {name} are written anew, so nobody publishes their bytes",
                advice="leave --published-at out; nodes get these experts from the coordinator",
            )
        _write(folder, parts, order, sign)
    return PreparedModel.open(out)


def _find(source: str, progress: Progress) -> Path:
    if source == DEFAULT:
        return fetch_default(progress)
    path = Path(source).expanduser().absolute()
    if not path.exists():
        looks_like_hub = source.count("/") == 1 and not source.startswith((".", "/", "~"))
        raise NoSuchModelError(
            f"there is no model {path}",
            advice=f"to use a model of a hub, download it first: hf download {source} --local-dir DIR"
            if looks_like_hub
            else "give a checkpoint folder, a .gguf file, or `default`",
        )
    if path.is_dir() and is_prepared(path):
        raise NoSuchModelError(
            f"{path} is a prepared model already",
            advice=f"serve it: folkmoot coordinator serve --model {path}",
        )
    if path.suffix == ".safetensors":
        raise NoSuchModelError(
            f"{path} is one file of a checkpoint", advice=f"give the folder that holds it: {path.parent}"
        )
    return path


def _name_of(path: Path) -> str:
    if path.is_file():
        return path.stem
    # Hugging Face's cache keeps a model in models--OWNER--NAME/snapshots/REVISION.
    if path.parent.name == "snapshots":
        return path.parent.parent.name.split("--")[-1]
    return path.resolve().name or "model"


def _reuse(out: Path, order: Order) -> PreparedModel | None:
    """The model at `out` if the same order made it; None if it may be replaced: same source, other options, or damaged."""
    try:
        recipe = SourceTable.decode((out / SOURCE).read_bytes(), out).recipe
    except SourceTableError as error:
        raise UsageError(
            f"{out} holds a damaged prepared model", advice="delete it, or name another folder with --out"
        ) from error
    if recipe.get("source") != order.recipe["source"]:
        raise UsageError(
            f"{out} holds a model that was prepared from {recipe.get('source')}",
            advice="name another folder with --out, or delete this one",
        )
    if recipe != order.recipe:
        return None
    try:
        return PreparedModel.open(out)
    except ModelError:
        return None


def _as_published(parts: Parts, order: Order) -> bool:
    """Whether the manifest's files are those of the source."""
    return parts.experts.folder == order.source


def _write(folder: Path, parts: Parts, order: Order, sign: Signer | None) -> None:
    experts = parts.experts
    manifest = Manifest(
        name=order.name,
        family=parts.family,
        top_k=experts.top_k,
        dtype=parts.dtype,
        sliced=experts.sliced,
        files=experts.files,
        specs=experts.specs,
        experts={entry.key: entry for entry in experts.entries},
        published=order.published if _as_published(parts, order) else None,
    )
    source = SourceTable(
        manifest=manifest.digest.hex(),
        recipe=order.recipe,
        expert_folder=experts.folder,
        trunk_folder=parts.trunk_folder,
        trunk_files=parts.trunk_files,
        trunk=parts.trunk,
    )
    (folder / SOURCE).write_bytes(source.encode(folder))
    (folder / MANIFEST).write_bytes(manifest.encoded)
    if sign is not None:
        write_signature(folder / SIGNATURE, manifest.digest, ManifestSignature(*sign(manifest.digest)))


def _signed_again(model: PreparedModel, sign: Signer | None) -> PreparedModel:
    if sign is None:
        return model
    signature = ManifestSignature(*sign(model.manifest.digest))
    if signature != model.signature:
        partial = model.folder / (SIGNATURE + ".partial")
        write_signature(partial, model.manifest.digest, signature)
        partial.replace(model.folder / SIGNATURE)
        model.signature = signature
    return model
