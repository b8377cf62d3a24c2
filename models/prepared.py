"""A prepared model: the folder that `folkmoot model prepare` makes, opened.

Guarantees: once open, the manifest is the one that was prepared (its digest is checked) and every file that it or the
trunk refers to is there with the size that it had then. Reading an expert reads its ranges and no more; nothing is kept
in memory but the manifest and the trunk's table of contents. A `PreparedModel` may be read from many threads at once.

In the folder lie `manifest.json`; `manifest.sig`, its signature; `source.json`, unsigned, which says where on this machine
the files of the manifest and the trunk's tensors are; `config.json` and the tokenizer's files.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoTokenizer

from ..errors import ModelError
from ..ids import ExpertKey
from ..kernels.formats import WeightFormat
from ..kernels.matrix import Matrix
from ..kernels.quantize import dequantize
from ..kernels.weight_memory import empty_weights
from .manifest import MAX_MANIFEST_BYTES, Manifest
from .published_forms import FP8, SCALE_INV
from .source_table import SOURCE, SourceTable
from .stored_types import DTYPES_BY_CODE

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
PREPARE_AGAIN = "prepare the model again: folkmoot model prepare"


class NotPreparedError(ModelError):
    """A folder holds no prepared model."""


class PreparedModelError(ModelError):
    """A prepared model is damaged, or the files that it refers to are gone or have changed."""


class ManifestSignature(NamedTuple):
    """Who vouches for a manifest.

    Attributes:
        key: The operator's Ed25519 public key, 32 bytes.
        signature: Over the manifest statement, 64 bytes. Not verified here.
    """

    key: bytes
    signature: bytes


class PreparedModel:
    """An opened prepared model.

    Attributes:
        folder: Where it lies; absolute.
        manifest: What a network agrees on about it.
        signature: Who signed the manifest; None when nobody did.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, signature: ManifestSignature | None, source: SourceTable
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.signature = signature
        self._source = source
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close_all, self._descriptors)
        """Closes the files; calling it twice does no harm."""

    @classmethod
    def open(cls, folder: Path) -> PreparedModel:
        """Opens what `prepare` made.

        Raises:
            NotPreparedError: no such folder, or it holds no prepared model.
            PreparedModelError: it is damaged, or files that it refers to are gone or have another size; names the first.
            ManifestError: the manifest cannot be read or contradicts itself.
        """
        folder = folder.expanduser().absolute()
        if not folder.is_dir():
            raise NotPreparedError(
                f"there is no prepared model {folder}", advice="make it with: folkmoot model prepare"
            )
        if not (folder / MANIFEST).is_file() or not (folder / SOURCE).is_file():
            raise NotPreparedError(
                f"{folder} holds no prepared model",
                advice=f"prepare it first: folkmoot model prepare {folder} --out DIR",
            )
        manifest = Manifest.decode(_read_bounded(folder / MANIFEST))
        source = SourceTable.decode(_read_bounded(folder / SOURCE), folder)
        if source.manifest != manifest.digest.hex():
            raise PreparedModelError(
                f"{folder / MANIFEST} is not the manifest that was prepared here", advice=PREPARE_AGAIN
            )
        signature = _read_signature(folder / SIGNATURE, manifest.digest)
        model = cls(folder, manifest, signature, source)
        model._check_files()
        return model

    @property
    def name(self) -> str:
        """What `/v1/models` calls it."""
        return self.manifest.name

    @cached_property
    def config(self) -> Any:
        """The model's configuration, as transformers reads it.

        Raises:
            PreparedModelError: when it is damaged or gone.
        """
        return self._as_transformers_reads("config.json", AutoConfig)

    def tokenizer(self) -> Any:
        """A new tokenizer of the model, as transformers makes it.

        Raises:
            PreparedModelError: when it is damaged or gone.
        """
        return self._as_transformers_reads("the tokenizer", AutoTokenizer)

    def ranges(self, key: ExpertKey) -> list[tuple[Path, int, int]]:
        """Where an expert's tensors lie on this machine: file, offset and length of each, in canonical order.

        Raises:
            KeyError: when the model has no such expert.
        """
        parts = self.manifest.experts[key].ranges
        return [(self._expert_file(part.file), part.offset, part.length) for part in parts]

    def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
        """Reads canonical bytes of an expert, from `offset` on; less than `length` only where the expert ends.

        Raises:
            KeyError: when the model has no such expert.
            PreparedModelError: when a file is gone, unreadable, or has become shorter.
        """
        end = self.manifest.expert_bytes(key)
        if length is not None:
            end = min(end, offset + length)
        pieces, start = [], 0
        for path, begin, count in self.ranges(key):
            first, last = max(offset - start, 0), min(end - start, count)
            if first < last:
                pieces.append(self._read(path, begin + first, last - first))
            start += count
        return b"".join(pieces)

    @cached_property
    def trunk_names(self) -> Collection[str]:
        """The published names of the trunk's tensors; scales belong to the tensors that they scale."""
        trunk = self._source.trunk
        scales = {name + SCALE_INV for name, tensor in trunk.items() if tensor.dtype == FP8}
        return [name for name in trunk if name not in scales]

    def trunk_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads the trunk tensor by tensor: published name, and the tensor in memory of its own, as published.

        Raises:
            PreparedModelError: when a file is gone or has become shorter.
        """
        for name in self.trunk_names:
            yield name, self.trunk_tensor(name)

    def trunk_tensor(self, name: str) -> torch.Tensor:
        """Reads one tensor of the trunk into memory of its own: as published, or in float32 where that is fp8.

        Raises:
            KeyError: when the trunk has no such tensor.
            PreparedModelError: when a file is gone or has become shorter.
        """
        stored = self._stored_trunk_tensor(name)
        if self._source.trunk[name].dtype != FP8:
            return stored
        scales = self._stored_trunk_tensor(name + SCALE_INV).float()
        return dequantize(Matrix(WeightFormat.FP8_BLOCK, stored, scales))

    def _stored_trunk_tensor(self, name: str) -> torch.Tensor:
        location = self._source.trunk[name]
        path = self._source.trunk_folder / location.file
        flat = empty_weights(location.numel, DTYPES_BY_CODE[location.dtype])
        view = flat.view(torch.uint8).numpy().data
        try:
            with path.open("rb", buffering=0) as stream:
                stream.seek(location.offset)
                done = 0
                while done < len(view):
                    count = stream.readinto(view[done:])
                    if not count:
                        raise _shorter(path)
                    done += count
        except OSError as error:
            raise _unreadable(path, error) from error
        return flat.view(location.shape)

    def _as_transformers_reads(self, what: str, reader: Any) -> Any:
        try:
            return reader.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # its Rust half raises no kind of its own
            reason = " ".join(str(error).split())
            raise PreparedModelError(
                f"{what} in {self.folder} cannot be read ({type(error).__name__}: {reason})",
                advice=PREPARE_AGAIN,
            ) from error

    def _expert_file(self, index: int) -> Path:
        return self._source.expert_folder / self.manifest.files[index].name

    def _read(self, path: Path, offset: int, length: int) -> bytes:
        descriptor = self._descriptor(path)
        pieces = []
        while length:
            try:
                piece = os.pread(descriptor, length, offset)
            except OSError as error:
                raise _unreadable(path, error) from error
            if not piece:
                raise _shorter(path)
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                try:
                    self._descriptors[path] = os.open(path, os.O_RDONLY)
                except OSError as error:
                    raise _unreadable(path, error) from error
            return self._descriptors[path]

    def _check_files(self) -> None:
        expected = {self._expert_file(index): file.size for index, file in enumerate(self.manifest.files)}
        expected |= {
            self._source.trunk_folder / name: size for name, size in self._source.trunk_files.items()
        }
        for path, size in expected.items():
            try:
                actual = path.stat().st_size
            except OSError as error:
                raise PreparedModelError(
                    f"{path}, which the prepared model {self.folder} refers to, cannot be read ({error.strerror})",
                    advice=f"put it back, or {PREPARE_AGAIN}",
                ) from error
            if actual != size:
                raise PreparedModelError(
                    f"{path} has {actual} bytes; it had {size} when {self.folder} was prepared",
                    advice=f"put it back as it was, or {PREPARE_AGAIN}",
                )


def write_signature(path: Path, digest: bytes, signature: ManifestSignature) -> None:
    """Writes who signed the manifest with this digest."""
    document = {
        "manifest": digest.hex(),
        "key": signature.key.hex(),
        "signature": signature.signature.hex(),
    }
    path.write_text(json.dumps(document) + "\n")


def _read_signature(path: Path, digest: bytes) -> ManifestSignature | None:
    if not path.is_file():
        return None
    try:
        document = json.loads(_read_bounded(path))
        signature = ManifestSignature(bytes.fromhex(document["key"]), bytes.fromhex(document["signature"]))
        signed = document["manifest"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PreparedModelError(f"{path} cannot be read ({error})", advice=PREPARE_AGAIN) from error
    if signed != digest.hex():
        raise PreparedModelError(f"{path} signs another manifest", advice=PREPARE_AGAIN)
    return signature


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise PreparedModelError(f"{path} is over {MAX_MANIFEST_BYTES} bytes", advice=PREPARE_AGAIN)
    return data


def _shorter(path: Path) -> PreparedModelError:
    return PreparedModelError(f"{path} has become shorter while it was in use", advice=PREPARE_AGAIN)


def _unreadable(path: Path, error: OSError) -> PreparedModelError:
    return PreparedModelError(f"{path} cannot be read ({error.strerror})", advice=PREPARE_AGAIN)


def _close_all(descriptors: dict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
