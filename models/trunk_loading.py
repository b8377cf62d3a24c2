"""Builds transformers' module of a model without its experts, and fills it with the trunk's tensors.

Guarantees: no parameter of an expert is made, read or left behind; every parameter and buffer comes from the prepared model
or is computed from the configuration, so a tensor that is missing, superfluous or of another shape is an error by name;
tensors are read one by one, so memory never holds the trunk twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from ..errors import FolkmootError, ModelError
from . import attention
from .families import Config, FamilyAdapter
from .prepared import PreparedModel

_building = threading.Lock()
"""Held while a class of transformers is replaced, which the whole process sees."""


class TrunkLoadError(ModelError):
    """The trunk's tensors are not those that the model's modules need."""


class _WithoutExperts(nn.Module):
    """Stands for a class that would hold experts' parameters."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self._is_hf_initialized = True


class _OnDisk:
    """A tensor that transformers reads when it needs it, by asking for all of it."""

    def __init__(self, prepared: PreparedModel, name: str, failures: list[FolkmootError]) -> None:
        self._prepared = prepared
        self._name = name
        self._failures = failures

    def __getitem__(self, everything: Any) -> torch.Tensor:
        try:
            return self._prepared.trunk_tensor(self._name)
        except FolkmootError as error:
            self._failures.append(error)
            raise


def load_modules(prepared: PreparedModel, adapter: FamilyAdapter, dtype: torch.dtype) -> nn.Module:
    """transformers' causal language model of `prepared` without its experts, on the CPU.

    Raises:
        TrunkLoadError: when tensors are missing, superfluous or of another shape; names the first.
        PreparedModelError: when a file cannot be read.
    """
    config: Config = prepared.config
    failures: list[FolkmootError] = []
    tensors = {
        name: _OnDisk(prepared, name, failures)
        for name in prepared.trunk_names
        if adapter.is_trunk_tensor(config, name)
    }
    with _building, _without_experts(adapter), _quiet():
        try:
            model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=dtype,
                attn_implementation=attention.NAME,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except RuntimeError:
            if failures:
                raise failures[0] from None
            raise
    _check_report(prepared, report)
    _check_modules(prepared, model)
    module: nn.Module = model.eval().requires_grad_(False)
    return module


@contextmanager
def _without_experts(adapter: FamilyAdapter) -> Iterator[None]:
    original = getattr(adapter.modeling, adapter.experts_class)
    setattr(adapter.modeling, adapter.experts_class, _WithoutExperts)
    try:
        yield
    finally:
        setattr(adapter.modeling, adapter.experts_class, original)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table from transformers: what is wrong is raised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_report(prepared: PreparedModel, report: dict[str, Any]) -> None:
    advice = "the checkpoint is incomplete or of another version; get it again and prepare it again"
    for kind, names in (
        ("lacks", report["missing_keys"]),
        ("has no use for", report["unexpected_keys"]),
        ("has in another shape", {name for name, *_ in report["mismatched_keys"]}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise TrunkLoadError(f"the trunk of {prepared.name} {kind} {min(names)}{more}", advice=advice)


def _check_modules(prepared: PreparedModel, model: Any) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise TrunkLoadError(f"{name} of {prepared.name} was left on device {tensor.device}")
