"""What a download's line says: bytes, rate, time left, and who is silent."""

from __future__ import annotations

import asyncio

import pytest

from folkmoot.node.claims import Claims
from folkmoot.node.download_progress import Progress
from folkmoot.node.traffic import Traffic

MIB = 1 << 20


def test_a_line_has_a_bar_bytes_rate_and_time_left() -> None:
    now = [100.0]
    traffic = Traffic(clock=lambda: now[0])
    progress = Progress(100 * MIB, 10, traffic)
    now[0] += 5
    traffic.brought_bytes += 30 * MIB
    traffic.unready_bytes += 10 * MIB
    progress.ready_bytes, progress.ready_experts = 20 * MIB, 2
    assert progress.line() == (
        "[######..............] 30 % (2 of 10 experts, 30.0 MiB of 100.0 MiB), 6.0 MiB/s, 12 s left"
    )
    now[0] += 5
    assert "0 B/s, 23 s left" in progress.line(), "a pause does not make the time left infinite at once"
    progress.ready_bytes, progress.ready_experts, traffic.unready_bytes = 100 * MIB, 10, 0
    assert progress.line() == "[####################] 100 % (10 of 10 experts, 100.0 MiB of 100.0 MiB), 0 B/s"


@pytest.mark.parametrize(
    ("rate", "left"), [(1 << 20, "100 s"), (1 << 18, "7 min"), (1 << 10, "28 h 26 min"), (0, "")]
)
def test_time_left_is_told_in_words_of_its_size(rate: int, left: str) -> None:
    now = [0.0]
    traffic = Traffic(clock=lambda: now[0])
    progress = Progress(100 * MIB, 1, traffic)
    now[0] += 1
    traffic.brought_bytes += rate
    expected = {"100 s": "2 min"}.get(left, left)
    line = progress.line()
    assert line.endswith(f"{expected} left") if left else "left" not in line


def test_a_silent_source_is_named_with_how_long_it_has_been() -> None:
    now = [0.0]
    traffic = Traffic(clock=lambda: now[0])
    progress = Progress(MIB, 1, traffic)
    with traffic.waiting("the model hub x"):
        now[0] += 4
        assert "nothing" not in progress.line()
        now[0] += 8
        with traffic.waiting("the coordinator"):
            first = progress.line()
            assert first.endswith("; the model hub x has sent nothing for 12 s")
            now[0] += 5
            assert progress.line() != first
    assert traffic.longest_wait() is None


async def test_an_expert_is_got_by_one_at_a_time_and_nobody_waits_for_ever() -> None:
    claims, holders, most = Claims(), dict.fromkeys("abcd", 0), 0

    async def get(digests: str) -> None:
        nonlocal most
        async with claims.of(digests):
            for digest in digests:
                holders[digest] += 1
            most = max(most, *holders.values())
            await asyncio.sleep(0)
            for digest in digests:
                holders[digest] -= 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(get(digests) for digests in ("ab", "ba", "cab", "d", "dc", "abcd") * 5))
    assert most == 1

    async with claims.of("a"):
        waiting = asyncio.create_task(get("ab"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(60), claims.of("ab"):
        pass
