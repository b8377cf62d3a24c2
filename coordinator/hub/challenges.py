"""Nonces that the coordinator has given to nodes that want to enrol.

Guarantees: a nonce is redeemed at most once, only by the node key and node nonce that it was made for, and only within its
lifetime; the table never grows over its bound, whoever asks. The clock is an argument.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ...errors import TrustError
from ...protos.limits import NONCE_BYTES

MAX_OPEN_CHALLENGES = 4096


class ChallengeError(TrustError):
    """A coordinator nonce is unknown, used, expired, or was given for another key or nonce."""


@dataclass(frozen=True, slots=True)
class _Challenge:
    node_key: bytes
    node_nonce: bytes
    expires_s: float


class ChallengeTable:
    """Open challenges by nonce, oldest first."""

    def __init__(self, lifetime_s: float, bound: int = MAX_OPEN_CHALLENGES) -> None:
        self._lifetime_s = lifetime_s
        self._bound = bound
        self._open: dict[bytes, _Challenge] = {}

    def __len__(self) -> int:
        return len(self._open)

    def issue(self, node_key: bytes, node_nonce: bytes, now_s: float) -> bytes:
        """A new nonce for this key; the oldest open one is given up when the table is full."""
        while self._open and (
            len(self._open) >= self._bound or next(iter(self._open.values())).expires_s <= now_s
        ):
            del self._open[next(iter(self._open))]
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._open[nonce] = _Challenge(node_key, node_nonce, now_s + self._lifetime_s)
        return nonce

    def redeem(self, nonce: bytes, node_key: bytes, node_nonce: bytes, now_s: float) -> None:
        """Uses a nonce up, whether or not it is good.

        Raises:
            ChallengeError: when it is not an open challenge for this key and node nonce.
        """
        challenge = self._open.pop(nonce, None)
        if challenge is None or challenge.expires_s <= now_s:
            raise ChallengeError(
                "the coordinator's nonce is unknown, used or expired", advice="ask for a new challenge"
            )
        if challenge.node_key != node_key or challenge.node_nonce != node_nonce:
            raise ChallengeError(
                "the coordinator's nonce was given to another node", advice="ask for a new challenge"
            )
