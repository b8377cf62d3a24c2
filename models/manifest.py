"""The manifest: the signed list of a model's experts, and where their canonical bytes lie.

Guarantees: a manifest's digest is the SHA-256 of its bytes, which are canonical JSON (sorted keys, no spaces), so the
same manifest has the same digest wherever it is made; file names in it are relative and never leave the folder that they
are resolved against; every expert's ranges add up to what its spec says before a `Manifest` exists.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from ..errors import ModelError
from ..ids import ExpertKey
from ..kernels.formats import Activation, ExpertSpec, Layout
from .publication import Publication, PublicationError

FORMAT = "folkmoot-manifest/1"
PROFILE = "float32-accumulate/1"
"""The arithmetic profile: canonical weights, float32 accumulation, at most one rounding each of gate, up and output."""
MAX_MANIFEST_BYTES = 256 << 20
LAST_NUMBER = (1 << 31) - 1
"""Layers and experts are 32-bit numbers on the wire."""


class ManifestError(ModelError):
    """A manifest is damaged or contradicts itself."""


@dataclass(frozen=True)
class SourceFile:
    """A file that holds canonical bytes, or trunk tensors: its name relative to the source folder, and its size."""

    name: str
    size: int


@dataclass(frozen=True)
class ByteRange:
    """`length` bytes at `offset` of `Manifest.files[file]`."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True)
class ExpertEntry:
    """One expert: the index of its spec, one range for each of the spec's tensors, and the SHA-256 of them end to end."""

    key: ExpertKey
    spec: int
    ranges: tuple[ByteRange, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a network must agree on about a model.

    Attributes:
        name: What `/v1/models` calls it.
        family: transformers' `model_type`.
        top_k: Experts that one token takes in one layer.
        dtype: The type of activations on the wire: what the trunk computes in.
        sliced: True where a dense model's feed-forward was cut into experts that are all active.
        profile: The arithmetic that nodes follow.
        files: Files that ranges refer to.
        specs: Forms of experts that entries refer to.
        experts: Every expert, by key.
        published: Where `files` can be had from a model hub, byte for byte; None when nobody says.
    """

    name: str
    family: str
    top_k: int
    dtype: str
    sliced: bool
    files: tuple[SourceFile, ...]
    specs: tuple[ExpertSpec, ...]
    experts: Mapping[ExpertKey, ExpertEntry]
    profile: str = PROFILE
    published: Publication | None = None

    def __post_init__(self) -> None:
        if not self.experts or len({spec.hidden for spec in self.specs}) != 1:
            raise ManifestError("a manifest has experts, and all of them one hidden size")
        if self.top_k < 1:
            raise ManifestError(f"no token takes {self.top_k} experts")
        for file in self.files:
            path = PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ManifestError(f"the manifest names a file outside its folder: {file.name!r}")
        for entry in self.experts.values():
            self._check(entry)

    def _check(self, entry: ExpertEntry) -> None:
        if not all(0 <= number <= LAST_NUMBER for number in entry.key):
            raise ManifestError(f"there can be no {entry.key}")
        if not 0 <= entry.spec < len(self.specs):
            raise ManifestError(f"{entry.key} has no spec {entry.spec}")
        spec = self.specs[entry.spec]
        expected = [spec.tensor_bytes(tensor) for tensor in spec.tensors()]
        if [part.length for part in entry.ranges] != expected:
            raise ManifestError(f"{entry.key}: ranges do not fit its shape: want lengths {expected}")
        for part in entry.ranges:
            if not 0 <= part.file < len(self.files) or part.offset < 0:
                raise ManifestError(f"{entry.key}: a range lies in no file")
            if part.offset + part.length > self.files[part.file].size:
                raise ManifestError(f"{entry.key}: a range ends after {self.files[part.file].name}")

    def spec_of(self, key: ExpertKey) -> ExpertSpec:
        """The form of one expert. Raises KeyError when the model has no such expert."""
        return self.specs[self.experts[key].spec]

    def expert_bytes(self, key: ExpertKey) -> int:
        """How many canonical bytes an expert has."""
        return self.spec_of(key).expert_bytes

    @property
    def total_expert_bytes(self) -> int:
        """Canonical bytes of all experts together."""
        return sum(self.expert_bytes(key) for key in self.experts)

    @property
    def hidden(self) -> int:
        """The width of the model: what a frame's rows have."""
        return self.specs[0].hidden

    @cached_property
    def layers(self) -> dict[int, list[ExpertKey]]:
        """Experts by layer, both in ascending order; layers without routed experts do not appear."""
        layers: dict[int, list[ExpertKey]] = {}
        for key in sorted(self.experts):
            layers.setdefault(key.layer, []).append(key)
        return layers

    @cached_property
    def encoded(self) -> bytes:
        """The canonical bytes of the manifest itself."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "family": self.family,
            "top_k": self.top_k,
            "dtype": self.dtype,
            "sliced": self.sliced,
            "profile": self.profile,
            "files": [[file.name, file.size] for file in self.files],
            "specs": [asdict(spec) for spec in self.specs],
            "experts": [
                [
                    key.layer,
                    key.expert,
                    entry.spec,
                    [[part.file, part.offset, part.length] for part in entry.ranges],
                    entry.sha256,
                ]
                for key, entry in sorted(self.experts.items())
            ],
        }
        if self.published is not None:
            document["published"] = [self.published.repository, self.published.revision]
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of `encoded`, 32 bytes."""
        return hashlib.sha256(self.encoded).digest()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Parses what `encoded` made.

        Raises:
            ManifestError: when the bytes are too many, not such JSON, or contradict themselves.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise ManifestError(f"a manifest of {len(data)} bytes is over the cap of {MAX_MANIFEST_BYTES}")
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ManifestError(
                    f"this manifest is of format {document['format']!r}",
                    advice="prepare the model again with this version: folkmoot model prepare",
                )
            return cls(
                name=_text(document["name"]),
                family=_text(document["family"]),
                top_k=int(document["top_k"]),
                dtype=_text(document["dtype"]),
                sliced=bool(document["sliced"]),
                profile=_text(document["profile"]),
                files=tuple(SourceFile(_text(name), int(size)) for name, size in document["files"]),
                specs=tuple(_spec(fields) for fields in document["specs"]),
                experts=_by_key(_entries(document["experts"])),
                published=_publication(document.get("published")),
            )
        except (PublicationError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ManifestError(
                f"the manifest cannot be read ({type(error).__name__}: {error})",
                advice="prepare the model again: folkmoot model prepare",
            ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _publication(fields: Any) -> Publication | None:
    if fields is None:
        return None
    repository, revision = fields
    return Publication(_text(repository), _text(revision))


def _spec(fields: dict[str, Any]) -> ExpertSpec:
    return ExpertSpec(
        hidden=int(fields["hidden"]),
        intermediate=int(fields["intermediate"]),
        dtype=_text(fields["dtype"]),
        layout=Layout(fields["layout"]),
        activation=Activation(fields["activation"]),
        alpha=float(fields["alpha"]),
        limit=float(fields["limit"]),
    )


def _by_key(entries: Iterable[ExpertEntry]) -> dict[ExpertKey, ExpertEntry]:
    experts: dict[ExpertKey, ExpertEntry] = {}
    for entry in entries:
        if entry.key in experts:
            raise ValueError(f"{entry.key} is there twice")
        experts[entry.key] = entry
    return experts


def _entries(rows: list[list[Any]]) -> Iterator[ExpertEntry]:
    for layer, expert, spec, ranges, sha256 in rows:
        if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:
            raise ValueError(f"not a SHA-256: {sha256}")
        parts = tuple(ByteRange(int(file), int(offset), int(length)) for file, offset, length in ranges)
        yield ExpertEntry(ExpertKey(int(layer), int(expert)), int(spec), parts, sha256)
