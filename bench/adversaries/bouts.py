"""Bouts: one adversary after the other, in an arena.

Guarantees: a call counts from the first that the adversary is asked for. A newcomer's next call is made when the auditor has nothing
left to do, so a count is that of the calls which it took, and not of how busy this machine is. A trusted node's calls follow each
other at once, as in use, however far behind audits are, each of some rows through all experts of a layer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch

from ...trust.recompute import PROFILE_TOLERANCE
from ...trust.standing import Status
from .arena import PATIENCE_S, POLL_S, Arena, StuckError, until
from .claims import Claim
from .evidence import verifies
from .kinds import Adversary, Fate
from .nodes import AdversaryNode
from .weak_keys import SMALL_ORDER_KEYS, enrols

SAME: Final = 1e-4
"""Relative difference below which two honest answers are the same: sums are taken in another order."""
AT_ONCE: Final = {Adversary.REORDER: 8}
"""How many calls are made at a time, where it is not one: who exchanges results must have two."""
MOST_ROWS: Final = 8
"""Of a trusted node's call."""
UNCAUGHT: Final = "not caught"
STRUCK: Final = "struck out"
QUARANTINED: Final = "quarantined"


@dataclass(frozen=True)
class Bout:
    """How one adversary fared.

    Attributes:
        calls: That it was asked until it was caught; None when it was not.
        verdict: `QUARANTINED`, `STRUCK`, `UNCAUGHT`, or `rejected: ` and why.
        evidence: Of each evidence file against it, whether the offline check proves it.
        wrong_answers: Calls whose answer, given before the audit, was further from the honest one than honest nodes may be.
        retried_equal: Whether the answers of calls whose result was rejected, or never came, are the honest ones; None
            when there were none.
        innocents_accused: Whether the honest node was convicted or struck meanwhile.
        credit_equal: Whether the books owe it what it did; None where it claimed nothing else.
        seconds: From its first call until it was caught, where calls do not wait for audits.
    """

    calls: int | None
    verdict: str
    evidence: tuple[bool, ...]
    wrong_answers: int
    retried_equal: bool | None
    innocents_accused: bool
    credit_equal: bool | None = None
    seconds: float | None = None


async def fight(arena: Arena, adversary: Adversary, seed: int, cap: int) -> Bout:
    """Lets one adversary in as a newcomer, and asks it until it is caught, or `cap` times."""
    match adversary:
        case Adversary.SMALL_ORDER_KEY:
            return await _enrol(arena)
        case Adversary.RECEIPTS_FOR_WORK_NOT_DONE:
            return await _claim(arena, seed)
    node = AdversaryNode(arena.node_settings(adversary.name.lower()), adversary=adversary)
    await node.start()
    try:
        await arena.ready(node)
        return await _fight(arena, node, seed, cap)
    finally:
        await node.stop()


async def fight_trusted(arena: Arena, adversary: Adversary, seed: int, cap: int) -> Bout:
    """Lets one adversary in that has long been trusted, and asks it until it is caught, or `cap` times."""
    settings = arena.node_settings(adversary.name.lower(), trusted=True)
    node = AdversaryNode(settings, adversary=adversary)
    await node.start()
    try:
        await arena.ready(node)
        return await _fight_trusted(arena, node, seed, cap)
    finally:
        await node.stop()


async def _fight(arena: Arena, node: AdversaryNode, seed: int, cap: int) -> Bout:
    evidence, since_s = arena.evidence(), arena.standings.of(node.node_id).since_s
    honest = arena.standings.of(arena.honest)
    rejected = Counter(arena.dispatched.totals().rejected)
    calls = wrong = 0
    verdict, equal = UNCAUGHT, None
    keys = sorted(arena.model.manifest.experts)
    at_once = AT_ONCE.get(node.adversary, 1)
    ongoing = {UNCAUGHT} if node.adversary.fate is Fate.STRIKES else {UNCAUGHT, STRUCK}
    for first in range(0, 2 * cap, at_once):
        asked = [
            (keys[number % len(keys)], arena.oracle.rows(1, seed * 1_000_003 + number))
            for number in range(first, first + at_once)
        ]
        due = arena.audits_ended()
        arena.always_audited.clear()
        for tally, error in await asyncio.gather(*(arena.call_one(*one) for one in asked)):
            if tally.results_rejected or tally.retries:
                equal = error < SAME and equal is not False
            elif node.node_id not in tally.nodes:
                continue
            calls += 1
            wrong += error > PROFILE_TOLERANCE
        await arena.settled(due + len(arena.always_audited))
        verdict = _verdict(arena, node, since_s, rejected)
        # Strikes only put a node back on probation; one that is wrong is asked on.
        if verdict not in ongoing or calls >= cap:
            break
    now = arena.standings.of(arena.honest)
    return Bout(
        calls if verdict != UNCAUGHT else None,
        verdict,
        tuple(verifies(path, arena.model.folder) for path in sorted(arena.evidence() - evidence)),
        wrong,
        equal,
        not now.serves or len(now.strikes_s) > len(honest.strikes_s),
    )


async def _fight_trusted(arena: Arena, node: AdversaryNode, seed: int, cap: int) -> Bout:
    evidence, generator = arena.evidence(), np.random.default_rng(seed)
    layers = sorted({key.layer for key in arena.model.manifest.experts})
    experts = [key.expert for key in arena.model.manifest.experts if key.layer == layers[0]]
    calls, began_s = 0, time.monotonic()
    for number in range(2 * cap):
        rows = int(generator.integers(1, MOST_ROWS + 1))
        hidden = arena.oracle.rows(rows, seed * 1_000_003 + number)
        ids = torch.tensor([sorted(experts)] * rows)
        gates = torch.from_numpy(generator.dirichlet(np.ones(len(experts)), rows)).float()
        tally, _ = await arena.call(int(generator.choice(layers)), hidden, ids, gates)
        calls += node.node_id in tally.nodes
        if not arena.standings.of(node.node_id).serves or calls >= cap:
            break
    caught = arena.standings.of(node.node_id).status is Status.QUARANTINED
    return Bout(
        calls if caught else None,
        QUARANTINED if caught else UNCAUGHT,
        tuple(verifies(path, arena.model.folder) for path in sorted(arena.evidence() - evidence)),
        0,
        None,
        not arena.standings.of(arena.honest).serves,
        seconds=time.monotonic() - began_s,
    )


def _verdict(arena: Arena, node: AdversaryNode, since_s: float, rejected: Counter[str]) -> str:
    standing = arena.standings.of(node.node_id)
    new = Counter(arena.dispatched.totals().rejected) - rejected
    # Whose results are rejected too often is quarantined for that, without a verdict.
    if new and (node.adversary.fate is Fate.REJECTED or standing.status is not Status.QUARANTINED):
        return f"rejected: {next(iter(new))}"
    if standing.status is Status.QUARANTINED:
        return QUARANTINED
    if standing.status is Status.PROBATION and standing.since_s != since_s:
        return STRUCK
    return UNCAUGHT


async def _enrol(arena: Arena) -> Bout:
    """Nodes that may not even come: under every encoding of a key of small order."""
    refused = []
    for public in SMALL_ORDER_KEYS:
        admitted = until(partial(_is_in, arena, public.hex()))
        why = await enrols(arena.node_settings("small_order_key"), public, admitted)
        # For what it is, and not for anything else.
        refused.append(why is not None and public.hex() in why)
    caught = all(refused)
    return Bout(
        0 if caught else None,
        "rejected: enrolment" if caught else UNCAUGHT,
        (),
        0,
        None,
        not arena.standings.of(arena.honest).serves,
    )


def _is_in(arena: Arena, node: str) -> bool:
    return any(one.id == node for one in arena.hub.snapshot().nodes)


def _came_back(node: AdversaryNode, times: int) -> bool:
    return node.lives > times


async def _claim(arena: Arena, seed: int) -> Bout:
    """A node that makes every claim, each in another life of its link; asked for work meanwhile, which it does."""
    adversary = Adversary.RECEIPTS_FOR_WORK_NOT_DONE
    node = AdversaryNode(arena.node_settings(adversary.name.lower()), adversary=adversary)
    before, calls, first = arena.ledger.refused, 0, None
    equal: bool | None = None
    key = min(arena.model.manifest.experts)
    await node.start()
    try:
        for number, _ in enumerate(Claim, start=1):
            await arena.ready(node)
            given_up_s = time.monotonic() + PATIENCE_S
            while arena.ledger.refused < before + number and time.monotonic() < given_up_s:
                tally, error = await arena.call_one(key, arena.oracle.rows(1, seed * 1_000_003 + calls))
                calls += node.node_id in tally.nodes
                if tally.retries:
                    equal = error < SAME and equal is not False
                await asyncio.sleep(POLL_S)
            if first is None and arena.ledger.refused > before:
                first = calls
            if arena.ledger.refused < before + number:
                break
            await until(partial(_came_back, node, number))
    finally:
        await node.stop()
    refused = arena.ledger.refused - before
    try:
        await until(lambda: arena.ledger.balanced(node.node_id))
        balanced = True
    except StuckError:
        balanced = False
    caught = refused >= len(Claim)
    return Bout(
        first if caught else None,
        "rejected: receipt" if caught else UNCAUGHT,
        (),
        0,
        equal,
        not arena.standings.of(arena.honest).serves,
        balanced,
    )
