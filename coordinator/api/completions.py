"""The routes that generate text: `/v1/chat/completions` and `/v1/completions`.

Guarantees: a request is checked whole (model name, parameters, prompt) before anything is computed for it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ..engine.requests import SamplingParams
from .answering import Answering
from .bodies import body_of
from .errors import RequestError
from .prompts import Prompts
from .requests import ChatRequest, CompletionRequest, GenerationRequest
from .settings import ApiSettings
from .shapes import ChatShape, CompletionShape
from .unhonoured import refuse_unhonoured

ChatBody = Annotated[ChatRequest, Depends(body_of(ChatRequest))]
CompletionBody = Annotated[CompletionRequest, Depends(body_of(CompletionRequest))]

COMPLETION_TOKENS = 16
"""What OpenAI's `/v1/completions` generates when a request does not say how much."""


class CompletionRoutes:
    """Chat and plain completions of one model."""

    def __init__(
        self, answering: Answering, prompts: Prompts, model_name: str, settings: ApiSettings
    ) -> None:
        self._answering = answering
        self._prompts = prompts
        self._model_name = model_name
        self._settings = settings

    def router(self) -> APIRouter:
        """The routes, to be included in an application."""
        router = APIRouter(prefix="/v1")
        router.add_api_route("/chat/completions", self.chat, methods=["POST"], response_model=None)
        router.add_api_route("/completions", self.complete, methods=["POST"], response_model=None)
        return router

    async def chat(self, body: ChatBody, request: Request) -> Response:
        """Continues a conversation."""
        self._check(body)
        if body.top_logprobs is not None and not body.logprobs:
            raise RequestError(
                "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value"
            )
        prompt_ids = await self._prompts.of_conversation(body.messages)
        sampling = self._sampling(
            body,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        shape = ChatShape(self._model_name, include_usage=body.include_usage, logprobs=bool(body.logprobs))
        return await self._answering.answer(
            request, prompt_ids, sampling, shape, stream=bool(body.stream), verification=body.verification
        )

    async def complete(self, body: CompletionBody, request: Request) -> Response:
        """Continues a text."""
        self._check(body)
        prompt_ids = await self._prompts.of_prompt(body.prompt)
        sampling = self._sampling(
            body, max_tokens=body.max_tokens or COMPLETION_TOKENS, logprobs=body.logprobs
        )
        shape = CompletionShape(
            self._model_name, include_usage=body.include_usage, logprobs=body.logprobs is not None
        )
        return await self._answering.answer(
            request, prompt_ids, sampling, shape, stream=bool(body.stream), verification=body.verification
        )

    def _check(self, body: GenerationRequest) -> None:
        if body.model != self._model_name:
            raise unknown_model(body.model, self._model_name)
        refuse_unhonoured(body.model_extra)
        if body.stream_options is not None and not body.stream:
            raise RequestError(
                "stream_options needs stream: true", param="stream_options", code="invalid_value"
            )
        if any(not text for text in body.stop_strings):
            raise RequestError("a stop string is empty", param="stop", code="invalid_value")

    def _sampling(
        self, body: GenerationRequest, *, max_tokens: int | None, logprobs: int | None
    ) -> SamplingParams:
        settings = self._settings
        wishes: dict[str, Any] = {
            "temperature": settings.default_temperature if body.temperature is None else body.temperature,
            "top_p": settings.default_top_p if body.top_p is None else body.top_p,
            "top_k": settings.default_top_k if body.top_k is None else max(body.top_k, 0),
            "min_p": body.min_p or 0.0,
        }
        return SamplingParams(
            **wishes,
            seed=body.seed,
            max_tokens=max_tokens,
            stop=body.stop_strings,
            logprobs=logprobs,
            ignore_eos=bool(body.ignore_eos),
        )


def unknown_model(asked: str, served: str) -> RequestError:
    """The error for a model name that this coordinator does not serve."""
    return RequestError(
        f"the model {asked!r} does not exist here",
        advice=f"this network serves {served!r}",
        param="model",
        code="model_not_found",
        status=404,
    )
