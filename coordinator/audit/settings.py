"""What an operator may choose about audits, and about how nodes stand.

Guarantees: values that cannot work together are refused when the settings are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError
from ...protos.limits import MAX_OPENED_ROWS, opened_pairs
from ...trust.audit_policy import FIRST_AUDITS, LOWEST_RATE, AuditPolicySettings
from ...trust.calibration import DEFAULT_RATE
from ...trust.projections import DEFAULT_COUNT, MAX_COUNT
from ...trust.standing import StandingSettings

WEEK_S = 7 * 24 * 3600.0
UNLIMITED = 1 << 30
FEWEST_PAIRS = 32


@dataclass(frozen=True)
class AuditSettings:
    """How results are audited.

    Attributes:
        enabled: Whether they are at all; without, only signatures are checked.
        first_audits: Calls of each expert of a node that are all audited.
        lowest_rate: The share of its calls that is audited however long all has been well.
        busy_share: The share of a busy node's time, and of the coordinator's, that audits beyond the lowest rate may take: those of what
            it is new to; results wait for their turn.
        projections: Secret vectors of a layer; more see smaller errors in fewer rows, and cost memory and time.
        epoch_s: After how long all secret vectors are made anew.
        suspicion_rate: How often an honest opening may be suspected, and be recomputed for nothing.
        rows_per_expert: Rows that an audit draws for each expert that it is about.
        most_rows: Rows that one audit asks for at most.
        opening_bytes: How large an opening may be: nodes send it from home.
        memory_bytes: What results may take until their audit is over; beyond it some are given up, drawn by chance, and counted. What
            may become evidence of a bias has 128 MiB beside it.
        probation_audits: Audits that a newcomer passes before it is a member.
        probation_experts: Experts that a node on probation is given, where others can host the rest.
        strikes: Late or missing openings within `strike_window_s` that put a member back on probation.
        strike_window_s: After how long a strike is forgotten.
    """

    enabled: bool = True
    first_audits: int = FIRST_AUDITS
    lowest_rate: float = LOWEST_RATE
    busy_share: float = 0.02
    projections: int = DEFAULT_COUNT
    epoch_s: float = WEEK_S
    suspicion_rate: float = DEFAULT_RATE
    rows_per_expert: int = 8
    most_rows: int = MAX_OPENED_ROWS
    opening_bytes: int = 1 << 20
    memory_bytes: int = 64 << 20
    probation_audits: int = 50
    probation_experts: int = 4
    strikes: int = 5
    strike_window_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.projections <= MAX_COUNT:
            raise UsageError(f"audits cannot have {self.projections} projections", advice=f"1 to {MAX_COUNT}")
        if not 0 < self.busy_share <= 1:
            raise UsageError(
                f"a busy_share of {self.busy_share} cannot be", advice="give a share above 0, up to 1"
            )
        if not 0 < self.suspicion_rate < 0.1:
            raise UsageError(
                f"a suspicion rate of {self.suspicion_rate} cannot be",
                advice="give a rate above 0, below 0.1",
            )
        if not 1 <= self.rows_per_expert <= self.most_rows <= MAX_OPENED_ROWS:
            raise UsageError(
                f"audits of {self.rows_per_expert} rows an expert and {self.most_rows} in all cannot be",
                advice=f"give 1 to {MAX_OPENED_ROWS}, and not more for one expert than in all",
            )
        if self.epoch_s < 60 or min(self.memory_bytes, self.opening_bytes) < 1 << 16:
            raise UsageError(
                "epoch_s, opening_bytes or memory_bytes of audits is too small",
                advice="give at least a minute, and 64 KiB",
            )
        # Both refuse what cannot be.
        _ = self.policy, self.standing

    def most_pairs(self, intermediate: int) -> int:
        """How many pairs of a row and an expert this wide one audit may open: those of one row at least, for most models."""
        wanted = max(self.opening_bytes // (2 * 4 * intermediate), FEWEST_PAIRS)
        return min(wanted, opened_pairs(intermediate))

    @property
    def policy(self) -> AuditPolicySettings:
        """What of it the rate rule is told."""
        return AuditPolicySettings(self.first_audits, self.lowest_rate)

    @property
    def standing(self) -> StandingSettings:
        """What of it the rules of standing are told."""
        # Where nobody is audited nobody could end its probation.
        experts = self.probation_experts if self.enabled else UNLIMITED
        return StandingSettings(self.probation_audits, experts, self.strikes, self.strike_window_s)
