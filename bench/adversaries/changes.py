"""What a cheat does to a right output, or to a right signature, before it is sent.

Guarantees: the size of each change is what its name says, relative to the row that it is done to; what is random follows from a
fixed seed.

Letters: R rows, H hidden size.
"""

from __future__ import annotations

import torch

SEED = 20
BIAS = 0.01
FIXED_BIAS = 0.003
ROWS_FOR_ONE_LEFT_OUT = 128
_HALF = 32
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group that Ed25519 signs in (RFC 8032, 5.1)."""
_NEUTRAL = (1).to_bytes(_HALF, "little")


def zeros(output: torch.Tensor) -> torch.Tensor:
    """Nothing was computed."""
    return torch.zeros_like(output)


def biased(output: torch.Tensor) -> torch.Tensor:
    """1 % too much."""
    return output * (1 + BIAS)


class Garbage:
    """Random rows, each of the right one's size."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(SEED)

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(output.shape, generator=self._generator)
        return _sized(noise, output.norm(dim=1, keepdim=True))


class FixedDirection:
    """The same direction is added to each row, by 0.3 % of the row's size."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        direction = torch.randn(1, output.shape[1], generator=torch.Generator().manual_seed(SEED))
        return output + _sized(direction, output.norm(dim=1, keepdim=True) * FIXED_BIAS)


class Stale:
    """What was right for the frame before, its rows taken again and again until there are enough; the first is right."""

    def __init__(self) -> None:
        self._last: torch.Tensor | None = None

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        last, self._last = self._last, output
        return output if last is None else last[torch.arange(len(output)) % len(last)]


class OneRowInMany:
    """One row in 128 is zeros, counted over frames."""

    def __init__(self) -> None:
        self._rows = 0

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(self._rows + 1, self._rows + len(output) + 1)
        self._rows += len(output)
        return output.masked_fill((numbers % ROWS_FOR_ONE_LEFT_OUT == 0).unsqueeze(1), 0.0)


def empty(signature: bytes) -> bytes:
    """No signature."""
    return b""


def small_order(signature: bytes) -> bytes:
    """R the neutral element, S zero: under a key of small order this signs some messages, under the neutral element all."""
    return _NEUTRAL + bytes(_HALF)


def malleated(signature: bytes) -> bytes:
    """S plus the group's order: the same equation holds, and RFC 8032 (5.1.7) has verifiers refuse it for its size."""
    scalar = int.from_bytes(signature[_HALF:], "little") + ORDER
    return signature[:_HALF] + scalar.to_bytes(_HALF, "little")


def _sized(rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    return torch.mul(rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30), sizes)
