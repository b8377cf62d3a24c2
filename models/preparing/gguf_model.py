"""Prepares a GGUF file: everything is dequantized once and written as safetensors.

Guarantees: weights in the prepared model are those that transformers reads from the same file, rounded once to the type
wanted; configuration, tokenizer and chat template come from the file too. Memory holds one tensor's rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from ...kernels.convert import converted
from ...kernels.formats import DTYPES, ExpertSpec, WeightFormat
from ..families import FamilyAdapter, adapter_for
from ..progress import Progress
from ..safetensors_header import CheckpointError
from ..source_table import TrunkTensor
from .chosen_format import read_dtype, spec_in
from .expert_file import write_layer
from .expert_list import ExpertList
from .gguf_config import gguf_config, token_id
from .gguf_header import GgufHeader, read_gguf_header
from .gguf_weights import CHUNK_BYTES, GgufWeights
from .order import Order, Parts
from .output_folder import check_space
from .slicing import refuse_slices, slice_dense
from .tensor_file import TensorFile

DEFAULT_DTYPE = "bfloat16"
TRUNK = "trunk.safetensors"


def prepare_gguf(order: Order, folder: Path) -> Parts:
    """Writes trunk, experts, configuration and tokenizer of a GGUF file into `folder`.

    Raises:
        CheckpointError: the file is damaged, or its architecture or a tensor's type is not supported.
        SlicesError: slices were asked for that do not fit.
        NoSpaceError: the disk is too small.
    """
    header = read_gguf_header(order.source)
    dtype = order.dtype or DEFAULT_DTYPE
    config = gguf_config(order.source, header, DTYPES[dtype])
    weights = GgufWeights(order.source, header, config, dtype)
    adapter = adapter_for(config)
    form = order.format or WeightFormat(dtype)
    _check_space(weights, config, adapter, dtype, form, folder)
    order.progress.start("Converting the tokenizer", None)
    try:
        _write_texts(order.source, header, config, folder)
    finally:
        order.progress.finish()
    trunk = [name for name in weights.names if not adapter.is_expert_tensor(name)]
    locations, size = _write_trunk(weights, trunk, dtype, folder, order.progress)
    return Parts(
        family=adapter.model_type,
        dtype=dtype,
        experts=_experts(
            order, GgufWeights(order.source, header, config, read_dtype(form)), config, adapter, form, folder
        ),
        trunk_folder=folder,
        trunk_files={TRUNK: size},
        trunk=locations,
    )


def _check_space(
    weights: GgufWeights, config: Any, adapter: FamilyAdapter, dtype: str, form: WeightFormat, folder: Path
) -> None:
    layers = adapter.moe_layers(config)
    experts = sum(adapter.expert_count(config, layer) for layer in layers)
    trunk = sum(
        torch.Size(weights.shape(name)).numel()
        for name in weights.names
        if not adapter.is_expert_tensor(name)
    )
    expert_bytes = spec_in(adapter.spec(config, read_dtype(form), layers[0]), form).expert_bytes
    check_space(folder, trunk * DTYPES[dtype].itemsize + experts * expert_bytes)


def _write_texts(source: Path, header: GgufHeader, config: Any, folder: Path) -> None:
    config.save_pretrained(folder)
    ends = [token_id(header, kind) for kind in ("eos", "eot", "eom")]
    stops = sorted({end for end in ends if end is not None})
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=stops or None, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"the tokenizer of {source} cannot be read ({reason})",
            advice="use the model's safetensors version",
        ) from error
    tokenizer.save_pretrained(folder)


def _write_trunk(
    weights: GgufWeights, names: Sequence[str], dtype: str, folder: Path, progress: Progress
) -> tuple[dict[str, TrunkTensor], int]:
    announced = {name: (DTYPES[dtype], weights.shape(name)) for name in names}
    with TensorFile(folder / TRUNK, announced) as output:
        progress.start("Writing the trunk", sum(place.length for place in output.locations.values()))
        try:
            for name in names:
                rows, *rest = weights.shape(name)
                step = max(1, CHUNK_BYTES // (4 * torch.Size(rest).numel()))
                for start in range(0, rows, step):
                    written = output.write(name, weights.rows(name, start, min(start + step, rows)))
                    progress.advance(len(written))
        finally:
            progress.finish()
    return {name: TrunkTensor.at(place) for name, place in output.locations.items()}, output.size


def _experts(
    order: Order,
    weights: GgufWeights,
    config: Any,
    adapter: FamilyAdapter,
    form: WeightFormat,
    folder: Path,
) -> ExpertList:
    progress = order.progress
    if adapter.sliced:
        return slice_dense(
            weights, config, adapter, form=form, slices=order.slices, folder=folder, progress=progress
        )
    refuse_slices(order.slices)
    layers = adapter.moe_layers(config)
    plain = adapter.spec(config, read_dtype(form), layers[0])
    spec = plain if form.value == plain.dtype else spec_in(plain, form)
    files, entries = [], []
    progress.start(
        "Writing experts", sum(adapter.expert_count(config, layer) for layer in layers) * spec.expert_bytes
    )
    try:
        for index, layer in enumerate(layers):
            experts = _layer(weights, config, adapter, layer, plain, spec, progress)
            count = adapter.expert_count(config, layer)
            file, found = write_layer(folder, layer, spec, experts, count=count, file=index)
            files.append(file)
            entries.extend(found)
    finally:
        progress.finish()
    return ExpertList(
        folder, tuple(files), (spec,), tuple(entries), top_k=adapter.top_k(config), sliced=False
    )


def _layer(
    weights: GgufWeights,
    config: Any,
    adapter: FamilyAdapter,
    layer: int,
    plain: ExpertSpec,
    spec: ExpertSpec,
    progress: Progress,
) -> Iterator[Iterable[torch.Tensor]]:
    for expert in range(adapter.expert_count(config, layer)):
        tensors = {}
        for disk, wanted in zip(adapter.on_disk(config, layer, expert), plain.tensors(), strict=True):
            if weights.shape(disk.name) != wanted.shape:
                raise CheckpointError(
                    f"{disk.name} is {list(weights.shape(disk.name))}, but the metadata says {list(wanted.shape)}",
                    advice="download the file again, or use another",
                )
            tensors[wanted.role] = weights.rows(disk.name, 0, wanted.shape[0])
        yield tensors.values() if spec is plain else converted(plain, tensors, spec.format)
        progress.advance(spec.expert_bytes)
