"""What an operator may choose about the HTTP API.

Guarantees: a value that cannot work is refused when the settings are made, never at the first request.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError


@dataclass(frozen=True)
class ApiSettings:
    """How the HTTP API behaves.

    Attributes:
        max_body_bytes: A request body above this is refused with 413 before it is parsed.
        keep_alive_s: A stream that has nothing to say sends a comment line this often, so that no proxy cuts it.
        first_token_wait_s: A stream answers 200 with its first token; after this long without one it answers 200 with a
            keep-alive comment, because proxies give up on silence. An error before that has its own status.
        default_temperature: For requests that name none; what the model's own generation settings advise, else 1.
        default_top_p: The same for `top_p`.
        default_top_k: The same for `top_k`; 0 is no limit.
    """

    max_body_bytes: int = 8 << 20
    keep_alive_s: float = 10.0
    first_token_wait_s: float = 45.0
    default_temperature: float = 1.0
    default_top_p: float = 1.0
    default_top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_body_bytes < 1024:
            raise UsageError(f"max_body_bytes is {self.max_body_bytes}", advice="give at least 1024")
        if self.keep_alive_s <= 0 or self.first_token_wait_s <= 0:
            raise UsageError("a waiting time of the API is not above zero", advice="give seconds above zero")
        if not 0 <= self.default_temperature <= 2:
            raise UsageError(f"default_temperature is {self.default_temperature}", advice="give 0 to 2")
        if not 0 < self.default_top_p <= 1:
            raise UsageError(
                f"default_top_p is {self.default_top_p}", advice="give a number above 0, at most 1"
            )
        if self.default_top_k < 0:
            raise UsageError(f"default_top_k is {self.default_top_k}", advice="give 0 (no limit) or more")
