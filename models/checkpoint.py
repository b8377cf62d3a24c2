"""A checkpoint folder as its publisher made it: its configuration, and where each tensor lies.

Guarantees: opening reads the configuration, the index and the headers, never a weight; every tensor that the index names
lies in the shard that it names; a checkpoint whose weights are quantized is refused with the format's name, unless it is one
of the forms in `published_forms`, so whoever has a `Checkpoint` has weights that can be read. A model that wraps a language
model is opened as that language model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .published_forms import CONFIG_KEYS, READ, readable_types
from .safetensors_header import (
    DOWNLOAD_AGAIN,
    WEIGHT_TYPES,
    CheckpointError,
    DamagedFileError,
    TensorLocation,
    read_header,
)

MAX_JSON_BYTES = 100 << 20
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

WRAPPERS: tuple[Mapping[str, str], ...] = (
    {"language_model.": ""},
    {"model.language_model.": "model.", "lm_head.": "lm_head."},
)
"""How models that wrap a language model prefix its tensors: prefix in the file -> prefix in the language model."""

FROM_WRAPPER = ("dtype", "torch_dtype", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""What a wrapper's configuration says for its language model too, where that says nothing itself."""

HARMLESS = {"I64", "I32", "BOOL"}
"""Types of counters and masks that some publishers leave beside the weights."""


class NoSuchModelError(CheckpointError):
    """There is no checkpoint at the path given."""


class MissingShardError(CheckpointError):
    """The index names files that are not there."""


class QuantizedSourceError(CheckpointError):
    """The checkpoint's weights are in a quantized format that is not read."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        folder: Where its files lie; absolute.
        config: The document `config.json`, or the part of it that describes the language model.
        tensors: Every tensor of the language model, by its published name without the wrapper's prefix.
    """

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorLocation]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Reads configuration, index and headers.

        Raises:
            NoSuchModelError: no such folder, or nothing in it that could be a checkpoint.
            MissingShardError: a file that the index names is not there.
            TruncatedFileError, DamagedFileError: a file is cut short or damaged; the file is named.
            QuantizedSourceError: the weights are quantized; the format is named.
        """
        folder = folder.expanduser().absolute()
        if not folder.is_dir():
            raise NoSuchModelError(f"there is no model folder {folder}", advice="check the path")
        if not (folder / "config.json").is_file():
            raise NoSuchModelError(
                f"{folder} has no config.json, so it is no checkpoint", advice=_advice_without_config(folder)
            )
        config = _read_json(folder / "config.json")
        quantized = _quantized_types(folder, config)
        if isinstance(config.get("text_config"), dict):
            quantized |= _quantized_types(folder, config["text_config"])
            config, tensors = _unwrap(folder, config, _locate(folder))
        else:
            tensors = _locate(folder)
        _refuse_strange_tensors(folder, tensors, quantized)
        return cls(folder, config, tensors)

    def file_size(self, file: str) -> int:
        """How many bytes a file of the checkpoint has."""
        return (self.folder / file).stat().st_size


def _advice_without_config(folder: Path) -> str:
    if found := sorted(path.name for path in folder.glob("*.gguf")):
        return f"to prepare a GGUF file, name the file itself: {folder / found[0]}"
    if (folder / "manifest.json").is_file():
        return "it looks prepared already; give it to `folkmoot coordinator serve --model`"
    return "give the folder that holds config.json and *.safetensors, a .gguf file, or `default`"


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DamagedFileError(f"{path} is larger than {MAX_JSON_BYTES} bytes", advice=DOWNLOAD_AGAIN)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not JSON ({error})", advice=DOWNLOAD_AGAIN) from error
    if not isinstance(document, dict):
        raise DamagedFileError(f"{path} is not a JSON object", advice=DOWNLOAD_AGAIN)
    return document


def _locate(folder: Path) -> dict[str, TensorLocation]:
    if (folder / SINGLE).is_file():
        return read_header(folder, SINGLE)
    if (folder / INDEX).is_file():
        return _locate_sharded(folder)
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(found) == 1:
        return read_header(folder, found[0])
    if found:
        raise DamagedFileError(
            f"{folder} has {len(found)} safetensors files and no {INDEX}", advice=f"download {INDEX} too"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise CheckpointError(
            f"{folder} has its weights in pickle files, which may run code when they are read",
            advice="use a safetensors version of the model",
        )
    raise NoSuchModelError(f"{folder} has no *.safetensors files", advice="download the model's weights too")


def _locate_sharded(folder: Path) -> dict[str, TensorLocation]:
    index = folder / INDEX
    files = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise DamagedFileError(f"{index} has no weight_map", advice=DOWNLOAD_AGAIN)
    shards = sorted(set(files.values()))
    for shard in shards:
        if PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts:
            raise DamagedFileError(
                f"{index} names a file outside its folder: {shard!r}", advice=DOWNLOAD_AGAIN
            )
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingShardError(f"{folder} lacks {missing[0]}{more}", advice="download what is missing")
    held = {shard: read_header(folder, shard) for shard in shards}
    tensors: dict[str, TensorLocation] = {}
    for name, shard in files.items():
        if name not in held[shard]:
            raise DamagedFileError(
                f"{INDEX} says that {name} is in {folder / shard}, but it is not",
                advice="download both again, from the same revision",
            )
        tensors[name] = held[shard][name]
    return tensors


def _unwrap(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorLocation]
) -> tuple[dict[str, Any], dict[str, TensorLocation]]:
    for prefixes in WRAPPERS:
        first = next(iter(prefixes))
        if any(name.startswith(first) for name in tensors):
            break
    else:
        raise CheckpointError(
            f"{folder} wraps a language model in a way that is not known (model_type {config.get('model_type')!r})",
            advice="use a text-only version of the model",
        )
    inner = {
        plain + name.removeprefix(prefix): location
        for name, location in tensors.items()
        for prefix, plain in prefixes.items()
        if name.startswith(prefix)
    }
    text = dict(config["text_config"])
    for key in FROM_WRAPPER:
        if text.get(key) is None and config.get(key) is not None:
            text[key] = config[key]
    return text, inner


def _quantized_types(folder: Path, config: Mapping[str, Any]) -> frozenset[str]:
    """The types beside float ones that the weights may have, if they are quantized in a form that is read."""
    types = readable_types(config)
    if types is None:
        settings = next(config[key] for key in CONFIG_KEYS if config.get(key))
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else "unknown"
        raise _quantized(folder, f"{method} (quantization_config in config.json)")
    return types


def _refuse_strange_tensors(
    folder: Path, tensors: Mapping[str, TensorLocation], quantized: frozenset[str]
) -> None:
    known = WEIGHT_TYPES.keys() | HARMLESS | quantized
    strange: Iterable[str] = (name for name, location in tensors.items() if location.dtype not in known)
    if (name := next(iter(strange), None)) is not None:
        raise _quantized(folder, f"{tensors[name].dtype} ({name} in {tensors[name].file})")


def _quantized(folder: Path, what: str) -> QuantizedSourceError:
    return QuantizedSourceError(
        f"{folder} has weights in {what}, which cannot be read",
        advice=f"of quantized models, {READ} are read; or use the bfloat16, float16 or float32 version",
    )
