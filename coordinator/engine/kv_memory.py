"""Where the keys and values of all sequences lie.

Guarantees: never more than the bytes it was given; all of it is reserved at once, and the operating system hands it out
only as pages are used; what is read from a page that was cleared is finite and of no earlier owner.

Letters: P page size in tokens, N slots (pages x P), T tokens of the step, K kv_heads, D width of a head as stored, n keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from ...models.trunk_spec import CacheSpec, TrunkSpec
from .settings import EngineSettings, EngineSettingsError


def stored_width(cache: CacheSpec) -> int:
    """What D is for a layer: keys and values are stored equally wide, as the attention kernel wants them."""
    return cache.key_dim if cache.value_in_key else max(cache.key_dim, cache.value_dim)


def token_bytes(cache: CacheSpec, dtype: torch.dtype) -> int:
    """Bytes that one token takes in one layer."""
    tensors = 1 if cache.value_in_key else 2
    return tensors * cache.kv_heads * stored_width(cache) * dtype.itemsize


class LayerMemory:
    """The keys and values of one layer: [1, K, N, D] each; one and the same tensor where the value is in the key."""

    def __init__(self, cache: CacheSpec, pages: int, page_tokens: int, dtype: torch.dtype) -> None:
        self.width = stored_width(cache)
        self._paged = (cache.kv_heads, pages, page_tokens * self.width)
        shape = (1, cache.kv_heads, pages * page_tokens, self.width)
        self.keys = torch.empty(shape, dtype=dtype)
        self.values = self.keys if cache.value_in_key else torch.empty(shape, dtype=dtype)

    def write(self, slots: slice | torch.Tensor, key: torch.Tensor, value: torch.Tensor | None) -> None:
        """Stores [K, T, *] at T slots."""
        self._write(self.keys, slots, key)
        if value is not None:
            self._write(self.values, slots, value)

    def clear(self, pages: torch.Tensor) -> None:
        """Makes pages finite: a mask is added to scores, and would not hide a NaN."""
        self.keys.view(self._paged).index_fill_(1, pages, 0)
        if self.values is not self.keys:
            self.values.view(self._paged).index_fill_(1, pages, 0)

    def span(self, slots: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the keys and values at slots in one piece: [1, K, n, D]."""
        start, length = slots.start, slots.stop - slots.start
        keys = self.keys.narrow(2, start, length)
        return keys, keys if self.values is self.keys else self.values.narrow(2, start, length)

    def gather(self, pages: torch.Tensor, sequences: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of the keys and values of sequences that have equally many pages: [sequences, K, n, D]."""
        keys = self._gather(self.keys, pages, sequences)
        return keys, keys if self.values is self.keys else self._gather(self.values, pages, sequences)

    def _gather(self, memory: torch.Tensor, pages: torch.Tensor, sequences: int) -> torch.Tensor:
        copied = memory.view(self._paged).index_select(1, pages)
        return copied.view(self._paged[0], sequences, -1, self.width).transpose(0, 1)

    def _write(self, memory: torch.Tensor, slots: slice | torch.Tensor, rows: torch.Tensor) -> None:
        if rows.shape[-1] < self.width:
            rows = pad(rows, (0, self.width - rows.shape[-1]))
        if isinstance(slots, slice):
            memory.narrow(2, slots.start, rows.shape[1]).copy_(rows)
        else:
            memory.index_copy_(2, slots, rows.unsqueeze(0))


class KvMemory:
    """The memory of all layers; slot `page x P + offset` is a token's place in each of them."""

    def __init__(self, spec: TrunkSpec, settings: EngineSettings) -> None:
        """Reserves the memory: no more than all sequences together can use.

        Raises:
            EngineSettingsError: when not even one page fits.
        """
        self.page_tokens = settings.page_tokens
        page_bytes = self.page_tokens * sum(token_bytes(cache, spec.dtype) for cache in spec.caches)
        affordable = settings.kv_memory_bytes // page_bytes
        if affordable < 1:
            raise EngineSettingsError(
                f"{settings.kv_memory_bytes} bytes hold no page of keys and values",
                advice=f"raise kv_memory_bytes to {page_bytes} at least, or lower page_tokens",
            )
        self.pages = min(affordable, settings.max_running * -(-spec.context_length // self.page_tokens))
        self.layers = [LayerMemory(cache, self.pages, self.page_tokens, spec.dtype) for cache in spec.caches]

    def clear(self, pages: Sequence[int]) -> None:
        """Removes what earlier owners left in pages."""
        if not pages:
            return
        index = torch.tensor(pages)
        for layer in self.layers:
            layer.clear(index)
