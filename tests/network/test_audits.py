"""Audits over the real wire: honest nodes are never suspected of anything that stays, cheats are turned out with evidence that a
stranger can check, answers go on, and what was decided about a node outlives the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch

from folkmoot.bench.adversaries.kinds import Adversary
from folkmoot.bench.adversaries.nodes import AdversaryNode
from folkmoot.cli.main import run
from folkmoot.coordinator.audit.counters import AuditTotals
from folkmoot.coordinator.audit.private_counts import COUNTS_FILE
from folkmoot.coordinator.engine.requests import SamplingParams
from folkmoot.coordinator.hub.snapshot import NodeSnapshot
from folkmoot.models.local import LocalExperts
from folkmoot.models.prepared import PreparedModel
from folkmoot.models.trunk import Trunk
from folkmoot.node.daemon import NodeDaemon
from folkmoot.node.remote import NodeRefusedError
from folkmoot.tests.support.prepared_models import TinyModel, TinyModels
from folkmoot.tests.support.running_node import running_node
from folkmoot.tests.support.trunk_runner import greedy, random_tokens
from folkmoot.tests.support.whole_network import WholeNetwork, whole_network
from folkmoot.trust.standing import Status

NEW_TOKENS = 8
AUDITS = {"probation_audits": 5, "first_audits": 10, "lowest_rate": 0.25, "busy_share": 0.9}
PROMPT = random_tokens(12, 3)
CAUGHT = (
    Adversary.INT8_CHANNEL,
    Adversary.INT8_BLOCK,
    Adversary.BIAS,
    Adversary.HONEST_OPENING,
    Adversary.NO_OPENING,
    Adversary.LATE_OPENING,
    Adversary.REPLAYED_OPENING,
)


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> TinyModel:
    return tiny_models.get("qwen3_moe")


@pytest.fixture(scope="module")
def expected(model: TinyModel) -> list[int]:
    """What one machine answers."""
    return greedy(Trunk.load(model.prepared), LocalExperts(model.prepared), PROMPT, NEW_TOKENS)


async def ask(network: WholeNetwork, prompt: list[int] | None = None) -> list[int]:
    """One greedy answer."""
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    generation = network.coordinator.engine.submit(prompt or PROMPT.tolist(), sampling)
    return [token async for delta in generation for token in delta.token_ids]


async def asks_until(network: WholeNetwork, condition: Callable[[], object]) -> None:
    """Keeps the network busy with different prompts until the condition holds; no answer may fail."""
    async with asyncio.timeout(45):
        seed = 0
        while not condition():
            seed += 1
            prompts = (random_tokens(5, seed + other).tolist() for other in range(3))
            await asyncio.gather(*(ask(network, prompt) for prompt in prompts))


def seen(network: WholeNetwork, node: NodeDaemon) -> NodeSnapshot:
    """What the coordinator says of a node."""
    return next(one for one in network.coordinator.hub.snapshot().nodes if one.id == node.node_id)


def settled_totals(network: WholeNetwork) -> AuditTotals | None:
    """The counts, once nothing is out."""
    totals = network.coordinator.audits.totals()
    return totals if sum(totals.outcomes.values()) == totals.challenges else None


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("qwen3_moe", torch.bfloat16),
        ("gpt_oss", torch.float32),
        ("granitemoe", torch.float16),
        ("llama", torch.bfloat16),
    ],
    ids=str,
)
async def test_honest_nodes_are_never_convicted(
    tiny_models: TinyModels, family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    prepared: PreparedModel = tiny_models.get(family, dtype=dtype).prepared
    async with whole_network(prepared, tmp_path, nodes=2, audit=AUDITS) as network:
        await asks_until(network, lambda: network.coordinator.audits.totals().challenges >= 100)
        async with asyncio.timeout(60):
            while (totals := settled_totals(network)) is None:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.01)
        assert totals.outcomes.get("wrong", 0) == totals.outcomes.get("abandoned", 0) == 0
        assert totals.suspected <= 2
        assert totals.unopened.keys() <= {"late", "not_now"}
        assert not list((tmp_path / "operator" / "evidence").glob("*"))
        assert all(seen(network, node).state.value == "ready" for node in network.nodes)


@pytest.mark.parametrize("adversary", CAUGHT, ids=lambda adversary: adversary.name)
async def test_a_cheat_is_turned_out_with_evidence(
    adversary: Adversary,
    model: TinyModel,
    expected: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = {"frame_deadline_s": 1.0, "audit": AUDITS}
    async with whole_network(model.prepared, tmp_path, nodes=2, **quick) as network:
        cheat = await network.join(kind=partial(AdversaryNode, adversary=adversary))
        await network.settled(3)
        ended = asyncio.create_task(cheat.wait())
        await asks_until(network, lambda: seen(network, cheat).standing is Status.QUARANTINED)
        with pytest.raises(NodeRefusedError, match="a result that it signed was wrong"):
            await asyncio.wait_for(ended, 60)
        assert await ask(network) == expected
        await network.settled(2)  # the two that are left take over what the cheat hosted
        assert all(seen(network, node).experts for node in network.nodes[:2])
        shown = seen(network, cheat)
        assert shown.state.value == "quarantined"
        assert "was wrong: layer" in shown.standing_reason
        assert shown.standing_since_unix_s > 0
    evidence = sorted((tmp_path / "operator" / "evidence").iterdir())
    assert evidence
    for file in evidence:
        assert run(["audit", "verify", str(file), "--model", str(model.prepared.folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "proven"
        assert cheat.node_id[:12] in lines[0]


async def test_openings_of_another_key_are_strikes_and_no_verdict(model: TinyModel, tmp_path: Path) -> None:
    audit = AUDITS | {"strikes": 2, "probation_audits": 1}
    async with whole_network(model.prepared, tmp_path, nodes=2, audit=audit) as network:
        forger = await network.join(kind=partial(AdversaryNode, adversary=Adversary.FORGED_OPENING))
        await network.settled(3)
        await asks_until(network, lambda: "faults within" in seen(network, forger).standing_reason)
        assert seen(network, forger).standing is Status.PROBATION
        assert not list((tmp_path / "operator" / "evidence").glob("*"))


async def test_quarantine_outlives_the_coordinator(
    model: TinyModel, expected: list[int], tmp_path: Path
) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, audit=AUDITS) as network:
        cheat = await network.join(kind=partial(AdversaryNode, adversary=Adversary.INT8_CHANNEL))
        await network.settled(3)
        await asks_until(network, lambda: seen(network, cheat).standing is Status.QUARANTINED)
        reason = seen(network, cheat).standing_reason
    async with whole_network(model.prepared, tmp_path, nodes=2, audit=AUDITS) as network:
        assert seen(network, cheat).standing_reason == reason
        with pytest.raises(NodeRefusedError, match="this node is quarantined"):
            async with running_node(network.coordinator.invite, tmp_path / "node-2") as back:
                await asyncio.wait_for(back.wait(), 10)
        assert await ask(network) == expected


async def test_the_operator_has_the_last_word(
    model: TinyModel, expected: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def order(*words: str) -> None:
        state = str(tmp_path / "operator")
        assert await asyncio.to_thread(run, ["coordinator", *words, "--state", state]) == 0
        assert capsys.readouterr().out.rstrip().endswith(": done")

    async with whole_network(model.prepared, tmp_path, nodes=3, audit=AUDITS) as network:
        node = network.nodes[-1]
        ended = asyncio.create_task(node.wait())
        await order("ban", node.node_id, "--reason", "we have met before")
        with pytest.raises(NodeRefusedError, match="we have met before"):
            await asyncio.wait_for(ended, 60)
        await node.stop()
        assert seen(network, node).standing is Status.BANNED
        assert await ask(network) == expected
        url = network.coordinator.api_url
        async with httpx.AsyncClient() as client:
            document = (await client.get(f"{url}/v1/network")).json()
            metrics = (await client.get(f"{url}/metrics")).text
        (shown,) = (one for one in document["nodes"] if one["id"] == node.node_id)
        assert (shown["standing"], shown["standing_reason"]) == ("banned", "we have met before")
        assert set(document["audits"]) == {"as_of_unix_s", "results", "right", "wrong", "dropped"}
        assert document["audits"]["results"] == 0, "nothing of the present hour"
        assert "folkmoot_audit" not in metrics, "whoever sees how openings looked learns of the projections"
        kept = await asyncio.to_thread((tmp_path / "operator" / COUNTS_FILE).read_text)
        assert 'folkmoot_audits_total{outcome="passed"}' in kept
        assert (
            await asyncio.to_thread(run, ["coordinator", "audits", "--state", str(tmp_path / "operator")])
            == 0
        )
        assert "folkmoot_audit_suspicions_total" in capsys.readouterr().out
        await asyncio.to_thread(run, ["status", "--url", url])
        printed = capsys.readouterr().out
        assert "banned since" in printed and "we have met before" in printed and "audits " in printed
        await order("admit", node.node_id[:10])
        async with running_node(network.coordinator.invite, tmp_path / "node-2") as back:
            assert back.node_id == node.node_id
            await network.settled(3)
            assert await ask(network) == expected


async def test_without_audits_nobody_is_asked(model: TinyModel, expected: list[int], tmp_path: Path) -> None:
    async with whole_network(model.prepared, tmp_path, nodes=2, audit={"enabled": False}) as network:
        assert await ask(network) == expected
        assert network.coordinator.audits.totals().results == 0
