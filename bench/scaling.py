"""How aggregate throughput grows with the number of nodes: 2, 4 and 8 real processes, each as slow as it is told, under many streams.

Guarantees: networks of one run differ in the number of their nodes and in nothing else; each is measured in processes of its own that
end before the next begin; four lanes keep nodes at work while others wait for the slowest; drafts and audits are off, so that all steps
have as many rows and nodes do nothing else. What the coordinator reaches when it hosts all experts itself, and when the nodes are not
slowed down, is measured in the same run: beyond that no node can help.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from ..cli.local_network import COORDINATOR_FOLDER
from . import network_system, random_olmoe, rationed
from .alone import alone
from .timing import Row

SHAPE: Final = random_olmoe.Shape(
    layers=4, hidden=128, intermediate=64, experts=64, top_k=8, heads=4, vocabulary=4000, seed=5
)
STREAMS, PROMPT_TOKENS, NEW_TOKENS = 64, 2, 12
NODES: Final = (2, 4, 8)
PAIRS_PER_S: Final = 600
"""Rows of experts that one node works off in a second."""
ROW_BYTES: Final = 3 * SHAPE.hidden * SHAPE.intermediate * 2
ENOUGH: Final = 1.7
"""Each doubling must give so much, until the coordinator is the limit."""
NEAR_THE_LIMIT: Final = 0.6
"""Of what the coordinator reaches with nodes that are not slowed down: from there on it is what counts."""
ENVIRONMENT: Final = {
    "FOLKMOOT_COORDINATOR_ENGINE__LANES": "4",
    "FOLKMOOT_COORDINATOR_ENGINE__MAX_DRAFT_TOKENS": "0",
    "FOLKMOOT_COORDINATOR_AUDIT__ENABLED": "false",
    "FOLKMOOT_COORDINATOR_FRAME_DEADLINE_S": "120",
}


def measure(folder: Path) -> dict[str, Any]:
    """Measures all networks, and returns the report.

    Args:
        folder: Where the model and the networks' state are.
    """
    prepared = alone(_prepare, folder / "scaling-model", folder / "scaling-prepared")
    prompts = _prompts()
    rate = {rationed.RATE_VARIABLE: str(PAIRS_PER_S * ROW_BYTES)}
    own = {"FOLKMOOT_COORDINATOR_SELF_HOST_BYTES": str(ROW_BYTES * SHAPE.layers * SHAPE.experts)}

    def run(name: str, nodes: int, environment: dict[str, str]) -> float:
        print(f"scaling: {name} ...", file=sys.stderr)
        rows, _ = network_system.measure(
            prepared,
            folder / "scaling-state" / name.replace(" ", "-"),
            prompts,
            (STREAMS,),
            NEW_TOKENS,
            name,
            ENVIRONMENT | environment,
            rationed.PROGRAM,
            nodes,
        )
        return _speed(rows)

    curve = [
        {"nodes": nodes, "tokens_per_second": run(f"{nodes} nodes", nodes, rate), "ideal": ideal(nodes)}
        for nodes in NODES
    ]
    alone_speed = run("the coordinator alone", 0, own)
    limit = run(f"{NODES[-1]} nodes at full speed", NODES[-1], {})
    return report(curve, alone_speed, limit)


def ideal(nodes: int) -> float:
    """Tokens per second that so many nodes would give if none of them ever waited."""
    return nodes * PAIRS_PER_S / (SHAPE.layers * SHAPE.top_k)


def report(curve: list[dict[str, Any]], alone_speed: float, limit: float) -> dict[str, Any]:
    """What came of it: the curve with what each doubling gave, and whether that is enough."""
    doublings = []
    for before, after in pairwise(curve):
        gain = after["tokens_per_second"] / before["tokens_per_second"]
        limited = after["tokens_per_second"] >= NEAR_THE_LIMIT * limit
        doublings.append(
            {
                "from": before["nodes"],
                "to": after["nodes"],
                "gain": gain,
                "coordinator_is_the_limit": limited,
                "enough": gain >= ENOUGH or limited,
            }
        )
    return {
        "streams": STREAMS,
        "pairs_per_second_of_a_node": PAIRS_PER_S,
        "curve": curve,
        "doublings": doublings,
        "coordinator_alone_tokens_per_second": alone_speed,
        "nodes_at_full_speed_tokens_per_second": limit,
    }


def show(document: dict[str, Any]) -> None:
    """Prints the report."""
    print(f"{'nodes':>6}{'tok/s':>10}{'of ideal':>10}{'gain':>8}")
    gains = {doubling["to"]: doubling for doubling in document["doublings"]}
    for point in document["curve"]:
        speed, doubling = point["tokens_per_second"], gains.get(point["nodes"])
        gain = "" if doubling is None else f"{doubling['gain']:.2f} x"
        limited = doubling is not None and doubling["coordinator_is_the_limit"]
        print(
            f"{point['nodes']:>6}{speed:>10.1f}{speed / point['ideal']:>10.0%}{gain:>8}"
            + ("  (the coordinator is the limit)" if limited else "")
        )
    print(
        f"nodes at full speed:                {document['nodes_at_full_speed_tokens_per_second']:.1f} tok/s"
    )
    print(f"the coordinator alone, no nodes:    {document['coordinator_alone_tokens_per_second']:.1f} tok/s")
    if not all(doubling["enough"] for doubling in document["doublings"]):
        print(f"a doubling gave less than {ENOUGH} x")


def _speed(rows: list[Row]) -> float:
    return rows[-1].decode_tokens_per_second


def _prepare(checkpoint: Path, out: Path) -> Path:
    from ..cli.model import prepare_signed

    random_olmoe.make(checkpoint, SHAPE)
    if not (out / "manifest.json").is_file():
        prepare_signed(str(checkpoint), out=out, state=out.parent / "scaling-state" / COORDINATOR_FOLDER)
    return out


def _prompts() -> list[list[int]]:
    """As many different prompts as streams."""
    return [
        [
            random_olmoe.WORDLESS
            + (7919 * (PROMPT_TOKENS * stream + place)) % (SHAPE.vocabulary - random_olmoe.WORDLESS)
            for place in range(PROMPT_TOKENS)
        ]
        for stream in range(STREAMS)
    ]
