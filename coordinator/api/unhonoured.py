"""Parameters that OpenAI or vLLM know and that this API cannot honour.

Guarantees: such a parameter is refused with its name unless its value asks for nothing beyond what happens anyway, so no
client ever believes that a wish was granted that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import RequestError

HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "store": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""For each parameter the values, besides null, that ask for nothing special."""


def refuse_unhonoured(extra: Mapping[str, Any] | None) -> None:
    """Looks through the fields that the request's own model does not have.

    Raises:
        RequestError: 400 with `param` for the first that cannot be honoured.
    """
    for name, value in (extra or {}).items():
        if name in HARMLESS and value is not None and value not in HARMLESS[name]:
            raise RequestError(
                f"{name} is not supported by this server",
                advice="leave it out of the request",
                param=name,
                code="unsupported_parameter",
            )
