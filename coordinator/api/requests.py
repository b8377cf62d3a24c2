"""The bodies that clients POST, as OpenAI names their fields.

Guarantees: a field that we act on has the type and range that OpenAI documents before a route sees it; fields that we do
not know are kept aside and change nothing; `null` always means "not given"; of all that is wrong in a
long list, only the first is told.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ..engine.delivery import Verification

MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = 20

TokenIds = Annotated[list[int], Field(fail_fast=True)]
StopStrings = str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None


class StreamOptions(BaseModel):
    """What a stream carries besides the answer."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = None


class FolkmootOptions(BaseModel):
    """What only this network knows to do. Nothing else is in it: a wish that nobody heard of must not seem granted."""

    model_config = ConfigDict(extra="forbid")

    verify: Verification | None = None


class GenerationRequest(BaseModel):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: StopStrings = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    folkmoot: FolkmootOptions | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def verification(self) -> Verification:
        """What must be known of results before tokens are handed out."""
        return (self.folkmoot and self.folkmoot.verify) or Verification.SIGNED

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Message(BaseModel):
    """One message of a conversation; its content is checked by `conversation`."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    name: str | None = None


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(fail_fast=True)]
        | Annotated[list[TokenIds], Field(fail_fast=True)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
