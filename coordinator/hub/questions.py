"""The challenges that one link has out, and those that wait for room: a pure state machine.

Guarantees: rows that are out never exceed what a node takes beside its frames; a challenge leaves exactly once.
"""

from __future__ import annotations

from collections import deque

from ...protos.limits import MAX_CHALLENGED_ROWS_IN_FLIGHT
from ..dispatch.challenge import SentChallenge


class Questions:
    """Challenges of one link."""

    def __init__(self) -> None:
        self._waiting: deque[SentChallenge] = deque()
        self._out: dict[bytes, SentChallenge] = {}
        self._rows_out = 0

    def offer(self, challenge: SentChallenge) -> None:
        """A challenge joins those that wait for room."""
        self._waiting.append(challenge)

    def admit(self) -> list[SentChallenge]:
        """The challenges that go out now."""
        admitted = []
        while self._waiting and self._rows_out + self._waiting[0].rows <= MAX_CHALLENGED_ROWS_IN_FLIGHT:
            challenge = self._waiting.popleft()
            self._rows_out += challenge.rows
            self._out[challenge.message.nonce] = challenge
            admitted.append(challenge)
        return admitted

    def take(self, nonce: bytes) -> SentChallenge | None:
        """The challenge that an opening belongs to, out no more; None when it belongs to none that is out."""
        challenge = self._out.pop(nonce, None)
        if challenge is not None:
            self._rows_out -= challenge.rows
            if challenge.timer is not None:
                challenge.timer.cancel()
        return challenge

    def drain(self) -> list[SentChallenge]:
        """All that are out or wait; none is, after this."""
        ended = [challenge for nonce in list(self._out) if (challenge := self.take(nonce)) is not None]
        ended += self._waiting
        self._waiting.clear()
        return ended
