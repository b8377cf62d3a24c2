"""`folkmoot demo`: a whole network on this machine, from nothing to an answer.

Guarantees: coordinator and nodes are real processes that meet over TLS on loopback; all of them end with the demo, however
that ends; a second demo prepares and downloads nothing.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..errors import ModelError
from .terminal import emit, emit_json, quiet_stdout, say

if TYPE_CHECKING:
    from ..client import Answer, FolkmootClient
    from .local_network import LocalNetwork

QUESTION = "Why is the sky blue?"
MAX_TOKENS = 160
DEFAULT_MODEL = "SmolLM2-135M-Instruct"
"""What `folkmoot model prepare default` makes; said here again because that module takes seconds to import."""
PREPARED_MARK = "manifest.json"
STABLE_API_PORT = 8000
"""Where `--serve` listens if nobody else does, so that other commands find it with no --url."""


class DamagedManifestError(ModelError):
    """A prepared model's manifest cannot be read."""


def demo(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="How many nodes to start.")] = 3,
    prompt: Annotated[str, typer.Option(help="The question to ask.")] = QUESTION,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A prepared model, checkpoint folder or GGUF file; the default model.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Leave the network up and print the API's URL.")
    ] = False,
) -> None:
    """Run a coordinator and nodes on this machine, ask a question, show what happened."""
    from ..client import FolkmootClient
    from ..home import folkmoot_home
    from .local_network import COORDINATOR_FOLDER, LocalNetwork, is_free

    # A demo that is told to end must end its processes, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    state = folkmoot_home() / "demo"
    with quiet_stdout():
        folder = prepared_folder(model, state / COORDINATOR_FOLDER)
    began = time.monotonic()
    say(f"starting a coordinator and {nodes} nodes on this machine")
    apart = _layers_stay_together(folder)
    port = STABLE_API_PORT if serve and is_free(STABLE_API_PORT) else 0
    with LocalNetwork(folder, nodes, state, api_port=port, threads=1 if apart else 0) as network:
        network.open()
        with FolkmootClient(network.api_url) as client:
            network.wait_until_covered(client, CoverageNotice(began))
            if apart:
                network.keep_apart()
            say(f"asking: {prompt}")
            answer, text = _ask(client, prompt, sys.stderr if as_json else sys.stdout)
            after = client.network()
        if as_json:
            emit_json(report(answer, text, after))
        else:
            _summarise(answer, after, time.monotonic() - began)
        if serve:
            _keep_up(network, as_json)


def _layers_stay_together(folder: Path) -> bool:
    """Whether each layer's experts sit on one node, so that nodes work one after another: so it is with sliced models."""
    path = folder / PREPARED_MARK
    try:
        return bool(json.loads(path.read_bytes())["sliced"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedManifestError(
            f"{path} cannot be read ({type(error).__name__})",
            advice="prepare the model again: folkmoot model prepare",
        ) from error


def prepared_folder(model: Path | None, state: Path) -> Path:
    """The prepared model to serve; prepares what is not prepared yet, and loads nothing heavy otherwise.

    Args:
        model: A prepared model, or what one can be made of; None for the default.
        state: The coordinator's.
    """
    from ..home import folkmoot_home

    folder = folkmoot_home() / "models" / DEFAULT_MODEL if model is None else model.absolute()
    if (folder / PREPARED_MARK).is_file():
        return folder
    from .model import prepare_signed

    return prepare_signed("default" if model is None else str(model), state=state).folder


def report(answer: Answer, text: str, network: dict[str, Any]) -> dict[str, Any]:
    """The object that `--json` prints."""
    counters = network["counters"]
    return {
        "answer": text,
        "prompt_tokens": answer.usage["prompt_tokens"],
        "completion_tokens": answer.usage["completion_tokens"],
        "tokens_per_second": round(answer.tokens_per_second, 2),
        "nodes": len(network["nodes"]),
        "experts": network["coverage"]["experts"],
        "results_signed": counters["results_signed"],
        "results_verified": counters["results_verified"],
        "results_rejected": counters["results_rejected"],
    }


class CoverageNotice:
    """Says how coverage grows, whenever it has."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._said: tuple[int, int] | None = None

    def __call__(self, network: dict[str, Any]) -> None:
        """Looks at a document of `/v1/network`."""
        coverage, nodes = network["coverage"], len(network["nodes"])
        seen = nodes, coverage["covered"]
        if seen != self._said:
            self._said = seen
            elapsed = time.monotonic() - self._began
            say(
                f"{elapsed:5.1f} s  {nodes} nodes, {coverage['covered']} of {coverage['experts']} experts hosted"
            )


def _ask(client: FolkmootClient, prompt: str, output: Any) -> tuple[Answer, str]:
    pieces = []
    messages = [{"role": "user", "content": prompt}]
    with client.chat(messages, temperature=0, max_tokens=MAX_TOKENS) as answer:
        for piece in answer:
            pieces.append(piece)
            output.write(piece)
            output.flush()
    output.write("\n")
    output.flush()
    return answer, "".join(pieces)


def _summarise(answer: Answer, after: dict[str, Any], elapsed_s: float) -> None:
    from .status import counters_line, coverage_line

    usage = answer.usage
    emit()
    for node in after["nodes"]:
        emit(f"{node['name']}  {node['id'][:12]}  {node['experts']} experts")
    emit(
        f"{usage['prompt_tokens']} prompt tokens, {usage['completion_tokens']} answered, "
        f"{answer.tokens_per_second:.1f} tokens/s, {elapsed_s:.1f} s from start to end"
    )
    emit(counters_line(after))
    emit(coverage_line(after))


def _keep_up(network: LocalNetwork, as_json: bool) -> NoReturn:
    (say if as_json else emit)(f"api {network.api_url}")
    say(f"try: folkmoot ask 'Who are you?' --url {network.api_url}; Ctrl-C ends the network")
    network.serve(say)
