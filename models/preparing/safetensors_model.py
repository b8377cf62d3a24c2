"""Prepares a safetensors checkpoint: the trunk stays where it is; experts stay too, or are written in another
weight format, or are cut from a dense model.

Guarantees: of the checkpoint only the configuration and the tokenizer's files are copied; none of them is code.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ...kernels.formats import DTYPES, WeightFormat
from ..checkpoint import Checkpoint
from ..families import FamilyAdapter, adapter_for
from ..published_forms import CONFIG_KEYS, SCALE_INV
from ..safetensors_header import WEIGHT_TYPES, CheckpointError
from ..source_table import TRUNK_TYPES, TrunkTensor, unscaled
from .checked_config import checked_config
from .chosen_format import read_dtype, spec_in
from .converted import write_converted
from .expert_list import ExpertList
from .order import Order, Parts
from .output_folder import check_space
from .published import list_published
from .slicing import refuse_slices, slice_dense
from .weights import CheckpointWeights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
"""Any one of these makes a tokenizer."""

COPIED = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
LEFT_OUT = ("auto_map", *CONFIG_KEYS)
"""What is not copied of a configuration: names of code to run, for Folkmoot runs none, and how weights were quantized, for
transformers never sees them so."""


def prepare_safetensors(order: Order, folder: Path) -> Parts:
    """Writes into `folder` what must be written, and says where everything else lies.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged or quantized.
        UnsupportedModelError: its family is not supported.
        SlicesError: slices were asked for that do not fit.
    """
    checkpoint = Checkpoint.open(order.source)
    adapter = adapter_for(checkpoint.config)
    _copy_texts(checkpoint, folder)
    config = checked_config(
        f"{checkpoint.folder / 'config.json'}",
        lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
    )
    published = {
        name: location
        for name, location in checkpoint.tensors.items()
        if location.dtype in TRUNK_TYPES and adapter.is_trunk_tensor(config, name)
    }
    trunk = {name: TrunkTensor.at(place) for name, place in published.items()}
    if (name := unscaled(trunk)) is not None:
        raise CheckpointError(
            f"{name} in {checkpoint.folder} lacks its scales ({name}{SCALE_INV})",
            advice="download the model's weights again",
        )
    experts = _experts(order, checkpoint, config, adapter, folder)
    return Parts(
        family=adapter.model_type,
        dtype=order.dtype or _published_dtype(config) or _float_type(experts),
        experts=experts,
        trunk_folder=checkpoint.folder,
        trunk_files={
            file: checkpoint.file_size(file) for file in sorted({place.file for place in published.values()})
        },
        trunk=trunk,
    )


def _published_dtype(config: Any) -> str | None:
    """What the checkpoint says it was made to be computed in; None when it does not say."""
    return next((name for name, dtype in DTYPES.items() if dtype == config.dtype), None)


def _float_type(experts: ExpertList) -> str:
    """What to compute in where the configuration does not say: as the weights are, or what quantized models are made of."""
    return experts.specs[0].dtype if experts.specs[0].dtype in DTYPES else "bfloat16"


def _experts(
    order: Order, checkpoint: Checkpoint, config: Any, adapter: FamilyAdapter, folder: Path
) -> ExpertList:
    source = f"{checkpoint.folder / 'config.json'}"
    layers = checked_config(source, partial(adapter.moe_layers, config))
    if not layers:
        raise CheckpointError(
            f"{checkpoint.folder} has no layer with experts", advice="check config.json, or use another model"
        )
    if not adapter.sliced:
        refuse_slices(order.slices)
        if order.format is None:
            return list_published(checkpoint, config, adapter, order.progress)
        return write_converted(checkpoint, config, adapter, order.format, folder, order.progress)
    first = adapter.on_disk(config, layers[0], 0)[0].name
    published = checkpoint.tensors[first].dtype if first in checkpoint.tensors else "F32"
    form = (
        order.format or order.dtype or WEIGHT_TYPES.get(published) or _published_dtype(config) or "bfloat16"
    )
    whole = checked_config(source, partial(adapter.spec, config, read_dtype(form), layers[0]))
    check_space(folder, len(layers) * spec_in(whole, WeightFormat(form)).expert_bytes)
    return slice_dense(
        CheckpointWeights(checkpoint, read_dtype(form)),
        config,
        adapter,
        form=WeightFormat(form),
        slices=order.slices,
        folder=folder,
        progress=order.progress,
    )


def _copy_texts(checkpoint: Checkpoint, folder: Path) -> None:
    if not any((checkpoint.folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{checkpoint.folder} has no tokenizer",
            advice="download tokenizer.json and tokenizer_config.json too",
        )
    for name in COPIED:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    config = {key: value for key, value in checkpoint.config.items() if key not in LEFT_OUT}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
