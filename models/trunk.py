"""The trunk: all of a model but its routed experts, ready to take steps.

Guarantees: a step over a packed batch gives each sequence the logits that it would have alone; experts' weights are never in
this process's memory because of the trunk; a step in which not every MoE layer had its answer from the pool raises rather than
returns; several threads may take steps at once.

Letters: T tokens of the step, S of them whose logits are wanted, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from ..errors import FolkmootError
from ..kernels.formats import DTYPES
from .attention import join_attention
from .families import Config, FamilyAdapter, adapter_for
from .few_rows import logits, quicken
from .pool import ExpertPool, StepTally
from .prepared import PreparedModel
from .routed_block import RoutedBlock, SlicedBlock
from .step import Step, running
from .trunk_loading import TrunkLoadError, load_modules
from .trunk_spec import StepAttention, TrunkSpec

FEW_ROWS, SHORT_SEQUENCE = 8, 2048
"""Up to so many tokens of a step, none further on in its sequence, torch has nothing to do that is worth waking a thread for."""


class IncompleteStepError(FolkmootError):
    """A step ended without an answer from the experts of every MoE layer."""


class Trunk:
    """A model's trunk.

    Attributes:
        spec: Its sizes, which an engine plans by.
    """

    def __init__(
        self, adapter: FamilyAdapter, config: Config, model: Any, spec: TrunkSpec, threads: int = 0
    ) -> None:
        self.spec = spec
        self._threads = threads
        self._embed = model.model.embed_tokens
        self._rotary = model.model.rotary_emb
        self._layers = list(model.model.layers)
        self._norm = model.model.norm
        self._head = model.lm_head
        self._multiplier = _field(config, adapter.embedding_multiplier)
        self._divisor = _field(config, adapter.logits_divisor)

    @classmethod
    def load(cls, prepared: PreparedModel, *, dtype: torch.dtype | None = None, threads: int = 0) -> Trunk:
        """Loads the trunk of a prepared model.

        Args:
            prepared: The model.
            dtype: What to compute in; as the manifest says when None.
            threads: How many torch uses in steps of many tokens; 0 leaves it alone. What the native kernels use is
                set by `set_native_threads`.

        Raises:
            UnsupportedModelError: when the family is not supported.
            TrunkLoadError: when tensors are missing, superfluous or of another shape, or experts are not as configured.
        """
        config = prepared.config
        adapter = adapter_for(config)
        _check_manifest(prepared, adapter, config)
        dtype = dtype or DTYPES[prepared.manifest.dtype]
        model: Any = load_modules(prepared, adapter, dtype)
        quicken(model)
        caches = tuple(join_attention(adapter, config, layer.self_attn) for layer in model.model.layers)
        experts = prepared.manifest.layers
        for index in experts:
            layer = model.model.layers[index]
            block = (
                SlicedBlock(index, len(experts[index]))
                if adapter.sliced
                else RoutedBlock(adapter, index, getattr(layer, adapter.block))
            )
            setattr(layer, adapter.block, block)
        spec = TrunkSpec(
            layers=len(caches),
            caches=caches,
            moe_layers=tuple(experts),
            vocab=model.lm_head.out_features,
            context_length=_context_length(config),
            eos_ids=_eos_ids(prepared, config),
            dtype=dtype,
        )
        return cls(adapter, config, model, spec, threads)

    @torch.inference_mode()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: StepAttention,
        pool: ExpertPool,
        tally: StepTally,
        logits_at: torch.Tensor,
    ) -> torch.Tensor:
        """Takes one step over sequences that stand end to end.

        Args:
            input_ids: [T] int64.
            positions: [T] int64, the place of each token in its own sequence.
            attention: Knows which token belongs to which sequence, and keeps the past.
            pool: Runs the experts.
            tally: Where expert calls are accounted.
            logits_at: [S] int64, the tokens whose logits are wanted.

        Returns:
            [S, V] float32.

        Raises:
            UnavailableError: from the pool.
            IncompleteStepError: when some MoE layer was not answered by the pool.
        """
        if self._threads:
            few = len(input_ids) <= FEW_ROWS and int(positions.max()) < SHORT_SEQUENCE
            torch.set_num_threads(1 if few else self._threads)  # of this thread alone; costs nothing
        answered = tally.layers
        with running(Step(positions, attention, pool, tally)):
            hidden = self._embed(input_ids)[None]  # [1, T, H]
            if self._multiplier != 1.0:
                hidden = hidden * self._multiplier
            place = positions[None]
            rotary = self._rotary(hidden, place)
            for layer in self._layers:
                hidden = layer(
                    hidden,
                    attention_mask=None,
                    position_ids=place,
                    past_key_values=None,
                    position_embeddings=rotary,
                )
        answered = tally.layers - answered
        if answered != len(self.spec.moe_layers):
            raise IncompleteStepError(
                f"experts of {answered} layers answered in a step, of {len(self.spec.moe_layers)}",
                advice="this is a fault of the expert pool; please report it with the log",
            )
        scores = logits(self._head, self._norm(hidden[0, logits_at]))  # [S, V]
        return scores / self._divisor if self._divisor != 1.0 else scores


def _check_manifest(prepared: PreparedModel, adapter: FamilyAdapter, config: Config) -> None:
    manifest = prepared.manifest
    counts = {layer: len(keys) for layer, keys in manifest.layers.items()}
    wanted = {
        layer: counts.get(layer) if adapter.sliced else adapter.expert_count(config, layer)
        for layer in adapter.moe_layers(config)
    }
    if counts != wanted or manifest.hidden != config.hidden_size:
        raise TrunkLoadError(
            f"the experts in the manifest of {prepared.name} are not those of its configuration",
            advice="prepare the model again: folkmoot model prepare",
        )


def _field(config: Config, name: str | None) -> float:
    return 1.0 if name is None else float(getattr(config, name))


def _context_length(config: Config) -> int:
    """Positions up to which rotary frequencies depend on nothing but the position.

    LongRoPE changes all of a sequence's frequencies when it grows past the original length, which tokens that are cached
    already cannot follow. PhiMoE as transformers has it changes only a scale, which its published model leaves the same.
    """
    rope = config.rope_parameters or {}
    changes = rope.get("rope_type") == "longrope" and (
        "long_mscale" not in rope or rope["long_mscale"] != rope["short_mscale"]
    )
    longest = int(config.max_position_embeddings)
    return min(longest, int(rope["original_max_position_embeddings"])) if changes else longest


def _eos_ids(prepared: PreparedModel, config: Config) -> frozenset[int]:
    found = config.eos_token_id
    if (prepared.folder / "generation_config.json").is_file():
        try:
            found = GenerationConfig.from_pretrained(prepared.folder).eos_token_id
        except (OSError, ValueError) as error:
            raise TrunkLoadError(
                f"{prepared.folder / 'generation_config.json'} cannot be read",
                advice="get it again, or remove it, and prepare the model again",
            ) from error
    return frozenset([found] if isinstance(found, int) else found or ())
