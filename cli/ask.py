"""`folkmoot ask`: one question, its answer streamed to standard output."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .terminal import say

Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The API's URL; FOLKMOOT_URL, else http://127.0.0.1:8000.", show_default=False
    ),
]


def ask(
    text: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    url: Url = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens.")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="0 gives the same answer each time.", show_default=False),
    ] = None,
) -> None:
    """Ask a network one question."""
    from ..client import FolkmootClient

    question = sys.stdin.read().strip() if text == "-" else text
    with FolkmootClient(url) as client:
        messages = [{"role": "user", "content": question}]
        with client.chat(messages, max_tokens=max_tokens, temperature=temperature) as answer:
            for piece in answer:
                sys.stdout.write(piece)
                sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if answer.finish_reason == "length":
        say("(the answer was cut at the most tokens allowed)")
