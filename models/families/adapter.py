"""What sets one model family apart: where its experts lie on disk, and how its trunk hands tokens to them.

Guarantees: an adapter reads a configuration and names of tensors, never a weight; `on_disk` names one tensor for each of
`spec(...).tensors()`, in canonical order; a model whose experts the kernels cannot compute exactly is refused by name.

Letters: H hidden size, I intermediate size of one expert, E experts of a layer.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import torch

from ...errors import ModelError
from ...kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from ..published_forms import SUFFIXES

Config = Any
"""A configuration as transformers reads it (`PreTrainedConfig`); its fields differ from family to family."""

_ACTIVATIONS = {
    "silu": Activation.SWIGLU,
    "swish": Activation.SWIGLU,
    "gelu_pytorch_tanh": Activation.GEGLU_TANH,
}

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


class UnsupportedModelError(ModelError):
    """A checkpoint is of a family, or uses a feature of one, that Folkmoot cannot compute exactly."""


class Reach(Enum):
    """Which earlier tokens of its sequence a token sees."""

    ALL = "all"
    WINDOW = "window"
    """Those within `sliding_window` in every layer, where the configuration sets one."""
    BY_LAYER = "by layer"
    """What `layer_types` says of the layer: all, a sliding window, or a chunk."""


@dataclass(frozen=True)
class DiskTensor:
    """Where one tensor of one expert lies in a checkpoint.

    Attributes:
        name: The published tensor's name.
        index: The expert's place in the leading dimension of a tensor that holds all experts of a layer; None where the
            tensor is one expert's own.
    """

    name: str
    index: int | None = None


@dataclass(frozen=True, kw_only=True)
class FamilyAdapter:
    """One family, declared.

    Attributes:
        model_type: transformers' name of the family.
        modeling_name: transformers' name of the family's modeling code, where that is another.
        tensors: The names of an expert's tensors within its decoder layer, in canonical order; `{expert}` stands for the
            expert's number, and where it is missing the tensor holds all experts of the layer.
        layout: How they are shaped.
        intermediate: The field of the configuration that is I.
        experts: The field of the configuration that is E.
        sparse: Whether a layer routes to experts, by configuration and layer.
        sliced: True for a dense model: each feed-forward is one expert, until it is cut into several that are all active.
        experts_class: The class of the family's modeling code that holds the experts' parameters.
        block: The attribute of a decoder layer that is its MoE block.
        router: The attribute of the block that is its router.
        shared: The attribute of the block that is its shared expert; None where there is none.
        shared_gate: The attribute of the block whose sigmoid scales the shared expert; None where nothing does.
        route: Gives gates and expert numbers, [T, K] each, for rows; None calls the router, as most families do.
        scales_input: True where the gate multiplies an expert's input, not its output.
        returns_pair: True where the decoder layer expects the block to return a second value.
        latent: True where attention keeps a latent instead of keys and values (MLA).
        reach: Which earlier tokens a token sees.
        embedding_multiplier: The field of the configuration that embeddings are multiplied by; None where nothing does.
        logits_divisor: The field of the configuration that logits are divided by; None where nothing does.
    """

    model_type: str
    modeling_name: str = ""
    tensors: tuple[str, ...]
    layout: Layout = Layout.SEPARATE
    intermediate: str = "moe_intermediate_size"
    experts: str = "num_local_experts"
    sparse: Callable[[Config, int], bool] = lambda config, layer: True
    sliced: bool = False
    experts_class: str
    block: str = "mlp"
    router: str = "gate"
    shared: str | None = None
    shared_gate: str | None = None
    route: Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    scales_input: bool = False
    returns_pair: bool = False
    latent: bool = False
    reach: Reach = Reach.ALL
    embedding_multiplier: str | None = None
    logits_divisor: str | None = None

    def moe_layers(self, config: Config) -> list[int]:
        """The decoder layers that call experts, ascending."""
        return [layer for layer in range(config.num_hidden_layers) if self.sparse(config, layer)]

    def expert_count(self, config: Config, layer: int) -> int:
        """How many experts a layer has: 1 for a dense model that is not cut."""
        return 1 if self.sliced else int(getattr(config, self.experts))

    def top_k(self, config: Config) -> int:
        """How many experts one token takes in one layer: 1 for a dense model that is not cut."""
        return 1 if self.sliced else int(config.num_experts_per_tok)

    def spec(self, config: Config, dtype: str, layer: int) -> ExpertSpec:
        """The form of a layer's experts, whose weights are published in the format `dtype`.

        Raises:
            UnsupportedModelError: when the experts have biases or an activation that the kernels do not know.
        """
        sizes = {"hidden": config.hidden_size, "intermediate": getattr(config, self.intermediate)}
        layout = self.layout.by_rows if WeightFormat(dtype).quantized else self.layout
        if self.layout is Layout.INTERLEAVED_BIASED:
            return ExpertSpec(
                **sizes,
                dtype=dtype,
                layout=layout,
                activation=Activation.CLAMPED_SWIGLU,
                alpha=config.swiglu_alpha,
                limit=config.swiglu_limit,
            )
        if self.sliced and getattr(config, "mlp_bias", False):
            raise UnsupportedModelError(
                f"this {self.model_type} model has biases in its feed-forward (mlp_bias)"
            )
        if config.hidden_act not in _ACTIVATIONS:
            raise UnsupportedModelError(
                f"this {self.model_type} model's activation {config.hidden_act!r} is not supported",
                advice=f"known are {', '.join(_ACTIVATIONS)}",
            )
        return ExpertSpec(**sizes, dtype=dtype, layout=layout, activation=_ACTIVATIONS[config.hidden_act])

    def on_disk(self, config: Config, layer: int, expert: int) -> tuple[DiskTensor, ...]:
        """Where an expert's tensors lie in a float checkpoint, in canonical order."""
        start = f"model.layers.{layer}."
        return tuple(
            DiskTensor(
                start + name.format(expert=expert),
                None if self.sliced or "{expert}" in name else expert,
            )
            for name in self.tensors
        )

    @cached_property
    def _expert_pattern(self) -> re.Pattern[str]:
        names = "|".join(re.escape(name).replace(r"\{expert\}", r"\d+") for name in self.tensors)
        return re.compile(rf"model\.layers\.\d+\.(?:{names})(?:{'|'.join(SUFFIXES)})?")

    def is_expert_tensor(self, name: str) -> bool:
        """Whether a published tensor belongs to an expert, or to all experts of a layer."""
        return self._expert_pattern.fullmatch(name) is not None

    def is_trunk_tensor(self, config: Config, name: str) -> bool:
        """Whether a published tensor belongs to the trunk. Layers for multi-token prediction, which stand after the
        decoder's, belong to nothing that we run."""
        layer = _LAYER.match(name)
        within = layer is None or int(layer.group(1)) < config.num_hidden_layers
        return within and not self.is_expert_tensor(name)

    @cached_property
    def modeling(self) -> Any:
        """The module of transformers that has the family's modeling code."""
        folder = self.modeling_name or self.model_type
        return importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
