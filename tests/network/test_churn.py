"""Nodes join, are drained, stopped and killed, and come back, in a seeded random order, under constant load from the official client: no request
fails, no token is wrong, and coverage is never lost while every expert has a live host."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from folkmoot.tests.support.churn import Change, Churn
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.process_network import ProcessNetwork
from folkmoot.tests.support.steady_load import SteadyLoad, questions
from folkmoot.tests.support.witness import Witness

NAMES = (
    "ash",
    "birch",
    "cedar",
    "damson",
    "elm",
    "fir",
    "gorse",
    "hazel",
    "ivy",
    "juniper",
    "larch",
    "maple",
)
PROMPTS = (
    "Why is the sky blue?",
    "Who was at the moot?",
    "What burns, and what does not?",
    "Count to nine.",
    "Once upon a time",
)
ENVIRONMENT = {
    "FOLKMOOT_COORDINATOR_LOST_GRACE_S": "1",
    "FOLKMOOT_COORDINATOR_AUDIT__PROBATION_EXPERTS": "1000",
    # Nodes that are slow because all of them share two cores are not lost.
    "FOLKMOOT_COORDINATOR_FRAME_DEADLINE_S": "60",
}
SEED = 20262
LEAST_LOOKS = 20
"""How often at least the witness must have been sure; how often it is not depends on how busy the machine is."""


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    """Enough experts for twelve nodes to have some each."""
    return tiny_models.get("qwen3_moe", num_experts=16, num_experts_per_tok=4, num_hidden_layers=3)


def churn(
    model: TinyModel,
    folder: Path,
    names: tuple[str, ...],
    *,
    least: int,
    streams: int,
    tokens: int,
    changes: int,
    lasting_s: float,
) -> Churn:
    """Changes a network under load, at least so many times and for so long, and checks all that must hold."""
    asked = questions(model, PROMPTS, tokens)
    with ProcessNetwork(model.prepared.folder, folder, names, environment=ENVIRONMENT) as network:
        with (
            Witness(network.api_url, model.prepared.manifest) as witness,
            SteadyLoad(network.api_url, model.prepared.name, asked, streams, SEED) as load,
        ):
            churn = Churn(network, witness, seed=SEED, least=least)
            pauses = random.Random(SEED)
            end = time.monotonic() + lasting_s
            while sum(churn.happened.values()) < changes or time.monotonic() < end:
                churn.step()
                time.sleep(pauses.uniform(0, lasting_s / changes))
                assert not load.faults, (load.faults, churn.log)
                assert not witness.faults, (witness.faults, churn.log)
            churn.everybody_back()
            state = network.until_whole()
            answered = load.answers
            network.until(lambda _: load.faults or load.answers >= answered + streams)
        counters = state["counters"]
        print(
            f"{load.answers} right answers; {dict(churn.happened)}; {witness.looks} looks while every expert surely had a host, "
            f"{witness.unsure} while not; {counters['retries']} retries, {counters['results_verified']} results"
        )
        assert not load.faults, (load.faults, churn.log)
        assert not witness.faults, (witness.faults, churn.log)
        assert counters["results_rejected"] == 0
        assert witness.looks >= LEAST_LOOKS, "often enough it was sure that every expert has a host"
    return churn


def test_four_nodes_for_a_moment(model: TinyModel, tmp_path: Path) -> None:
    """Few nodes, for a short while."""
    happened = churn(
        model, tmp_path, NAMES[:4], least=2, streams=3, tokens=24, changes=6, lasting_s=6.0
    ).happened
    assert set(happened) == set(Change)


@pytest.mark.churn
@pytest.mark.timeout(1500)
def test_twelve_nodes_for_five_minutes(model: TinyModel, tmp_path: Path) -> None:
    happened = churn(
        model, tmp_path, NAMES, least=6, streams=6, tokens=60, changes=75, lasting_s=300.0
    ).happened
    assert min(happened[change] for change in Change) >= 10
