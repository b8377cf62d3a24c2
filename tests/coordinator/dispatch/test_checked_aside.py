"""Results that a step may use before their signatures are checked: the sum does not wait, and nothing of it counts before the tally is
settled, which knows of every result that was not its node's."""

from __future__ import annotations

import asyncio
import threading

import torch

from folkmoot.coordinator.dispatch.verified_result import VerifiedResult
from folkmoot.models.pending_checks import PendingChecks
from folkmoot.models.pool import StepTally
from folkmoot.tests.support.running_hub import running_hub
from folkmoot.tests.support.scripted_node import Fault


async def test_a_result_that_its_node_did_not_sign_spoils_the_step_that_used_it() -> None:
    async with running_hub(dispatch={"expert_wait_s": 10.0}) as network:
        (bad,) = await network.join_ready(Fault.OTHER_KEY)
        routing = network.model.routing(3)
        tally = StepTally(unchecked=PendingChecks())
        await network.call(0, routing, tally)
        tally.settle()
        assert (tally.spoilt, tally.results_verified, tally.results_rejected) == (True, 0, 1)
        assert network.counters.totals().rejected == {"signature_wrong": 1}
        await network.until(lambda: network.seen(bad).state == "quarantined")
        good = await network.join()
        again = StepTally(unchecked=PendingChecks())
        answer = await network.call(0, routing, again)
        again.settle()
        assert (again.spoilt, again.results_verified, again.nodes) == (False, 1, {good.node})
        torch.testing.assert_close(answer, network.model.answer(0, *routing), rtol=1e-5, atol=1e-4)


async def test_what_cannot_be_computed_with_is_never_used() -> None:
    async with running_hub(dispatch={"expert_wait_s": 10.0}) as network:
        (bad,) = await network.join_ready(Fault.NOT_A_NUMBER)
        routing, tally = network.model.routing(3), StepTally(unchecked=PendingChecks())
        call = asyncio.create_task(network.call(0, routing, tally))
        await network.until(lambda: bad.frames)
        good = await network.join()
        torch.testing.assert_close(await call, network.model.answer(0, *routing), rtol=1e-5, atol=1e-4)
        tally.settle()
        assert (tally.spoilt, tally.results_rejected, tally.nodes) == (False, 1, {good.node})


async def test_the_sum_does_not_wait_for_signatures_and_watchers_see_what_was_checked_alone() -> None:
    async with running_hub() as network:
        await network.join_ready(None)
        held, seen = threading.Event(), list[VerifiedResult]()
        network.pool.watcher = seen.append
        network.pool.aside.leave(lambda: held.wait(60.0))  # type: ignore[arg-type]
        tally = StepTally(step=7, unchecked=PendingChecks())
        await network.call(0, network.model.routing(3), tally)
        assert (seen, tally.results_verified, network.counters.totals().results_verified) == ([], 0, 0)
        held.set()
        tally.settle()
        assert [verified.step for verified in seen] == [7]
        assert (tally.results_verified, network.counters.totals().results_verified) == (1, 1)
        tally.settle()
        assert tally.results_verified == 1, "what was counted is not counted again"
