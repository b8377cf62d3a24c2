"""Whether the coordinators can be reached, are who their invites say, and have the same time.

Guarantees: nothing is proven, and no secret shown, to anybody; every wait has a limit.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import grpc

from ...errors import FolkmootError
from ...protos.folkmoot.v1 import enrolment_pb2, enrolment_pb2_grpc
from ...protos.limits import NONCE_BYTES, channel_options
from ...trust.invite import Invite
from ...trust.keys import Identity
from ...trust.tls import TLS_NAME, check_certificate, fetch_certificate
from ..joined import Joined
from ..remote import readable
from ..tasks import in_thread
from .finding import Finding, fit, note, to_mend

CLOCK_SLACK_S: Final = 60.0
"""How far clocks may be apart."""


async def coordinators(joined: tuple[Joined, ...], timeout_s: float) -> list[Finding]:
    """Findings on all of them, in their order."""
    if not joined:
        return [note("coordinators", "none was joined yet", "join one: folkmoot node join INVITE")]
    found = await asyncio.gather(*(coordinator(one, timeout_s) for one in joined))
    return [finding for findings in found for finding in findings]


async def coordinator(one: Joined, timeout_s: float) -> list[Finding]:
    """Whether one can be reached and is who it should be; what its clock says."""
    invite, name = Invite.parse(one.invite), f"coordinator {one.name}"
    try:
        certificate = await in_thread(fetch_certificate, invite.host, invite.port, timeout_s)
        key = check_certificate(certificate, invite.fingerprint)
    except FolkmootError as error:
        return [to_mend(name, error.message, error.advice or "tell the operator")]
    try:
        behind_s, round_trip_s = await _compare_clocks(invite, certificate, key, timeout_s)
    except grpc.aio.AioRpcError as error:
        why = readable(error.details() or error.code().name)
        return [
            to_mend(name, f"it answers at {invite.address}, but not in gRPC ({why})", "tell the operator")
        ]
    except TimeoutError:
        busy = f"it lets itself be reached at {invite.address}, but does not answer in time"
        return [to_mend(name, busy, "try again later: it may be busy; if it stays so, tell the operator")]
    reached = fit(
        name, f"answers at {invite.address} in {1000 * round_trip_s:.0f} ms, with the key of the invite"
    )
    return [reached, clock(one.name, behind_s)]


def clock(name: str, behind_s: float | None) -> Finding:
    """How this machine's clock stands to a coordinator's; None when that does not tell."""
    title = f"clock against {name}"
    if behind_s is None:
        return note(title, "the coordinator does not tell its time", "it runs an older version")
    says = f"{abs(behind_s):.1f} s {'behind' if behind_s > 0 else 'ahead'}"
    if abs(behind_s) <= CLOCK_SLACK_S:
        return fit(title, says)
    return to_mend(
        title,
        says,
        "set this machine's clock: `timedatectl set-ntp true`; or tell the operator, if it is right",
    )


async def _compare_clocks(
    invite: Invite, certificate: bytes, key: bytes, timeout_s: float
) -> tuple[float | None, float]:
    """Seconds that this clock is behind, and the round trip."""
    credentials = grpc.ssl_channel_credentials(certificate)
    async with grpc.aio.secure_channel(
        invite.address, credentials, options=channel_options(TLS_NAME)
    ) as channel:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
        # A key of nobody's: asking for a challenge takes no more.
        request = enrolment_pb2.ChallengeRequest(
            node_key=Identity.generate().public, node_nonce=secrets.token_bytes(NONCE_BYTES)
        )
        began_s, began_unix_s = time.perf_counter(), time.time()
        reply = await enrolment_pb2_grpc.EnrolmentStub(channel).Challenge(request, timeout=timeout_s)
        round_trip_s = time.perf_counter() - began_s
    if not reply.unix_time_ms:
        return None, round_trip_s
    return reply.unix_time_ms / 1000 - (began_unix_s + round_trip_s / 2), round_trip_s
