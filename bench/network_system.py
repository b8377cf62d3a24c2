"""Measures a network, of two nodes unless told otherwise, as a user sees it: real processes, TLS, signatures, tokens over HTTP.

Guarantees: a coordinator and its nodes, started as `folkmoot demo` starts them; times are taken where the
streamed tokens arrive; a stream that brings another number of tokens than was asked for is an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from ..cli.child import PROGRAM
from ..cli.local_network import LocalNetwork
from ..client import FolkmootClient
from ..errors import FolkmootError
from .timing import Row, row_of

NODES = 2
TIMEOUT_S = 300.0


Watch = Callable[[Sequence[Sequence[float]]], None]
"""Is told when the tokens of each stream of a measurement came, in seconds of the monotonic clock."""


class ShortAnswerError(FolkmootError):
    """A stream ended with fewer or more tokens than were asked for, so its rate would mean nothing."""


def measure(
    prepared: Path,
    state: Path,
    prompts: Sequence[Sequence[int]],
    stream_counts: Sequence[int],
    new_tokens: int,
    system: str = "network",
    environment: Mapping[str, str] | None = None,
    program: str = PROGRAM,
    nodes: int = NODES,
    watch: Watch = lambda arrivals: None,
) -> tuple[list[Row], dict[str, Any]]:
    """Greedy completions of `new_tokens` for the first n prompts at once, for each n of `stream_counts`.

    Args:
        prepared: The model.
        state: Where the network keeps what it keeps.
        prompts: Token ids.
        stream_counts: How many streams at once.
        new_tokens: Of each stream.
        system: What the rows call it.
        environment: What its processes have in theirs besides.
        program: The module that they run.
        nodes: How many; with none, the environment has the coordinator host all experts itself.
        watch: Is told when the tokens of what is measured came.

    Returns:
        The rows, and the network's counters at the end.
    """
    local = LocalNetwork(prepared, nodes, state, environment=environment, program=program)
    with local as network, httpx.Client(timeout=TIMEOUT_S) as http:
        network.open()
        with FolkmootClient(network.api_url) as client:
            model = network.wait_until_covered(client, lambda _: None)["model"]

        def arrivals(prompt: Sequence[int], tokens: int) -> list[float]:
            request = {
                "model": model,
                "prompt": list(prompt),
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
            }
            times = []
            with http.stream("POST", f"{network.api_url}/v1/completions", json=request) as response:
                if response.status_code != httpx.codes.OK:
                    raise ShortAnswerError(
                        f"the network answered {response.status_code}: {response.read()!r}"
                    )
                for line in response.iter_lines():
                    if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                        times.append(time.monotonic())
            if len(times) != tokens:
                raise ShortAnswerError(f"a stream of {tokens} tokens came in {len(times)} pieces")
            return times

        def run(count: int, tokens: int, watch: Watch = lambda arrivals: None) -> Row:
            with ThreadPoolExecutor(count) as readers:
                started = time.monotonic()
                streams = list(readers.map(lambda prompt: arrivals(prompt, tokens), prompts[:count]))
            watch(streams)
            return row_of(system, started, streams)

        run(1, 4)
        run(max(stream_counts), 2)
        rows = [run(count, new_tokens, watch) for count in stream_counts]
        with FolkmootClient(network.api_url) as client:
            return rows, client.network()["counters"]
