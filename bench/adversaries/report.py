"""What was measured of each adversary: as JSON, as a table, and whether it is as promised.

Guarantees: what was not measured is null, never a number; a count that has no end is null too and shown as more than the cap. Whether
a kind that always cheats is caught as soon as promised is judged by the share of its runs as it is, with no allowance for chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

from .audited import Asked
from .bouts import QUARANTINED, STRUCK, Bout
from .kinds import Adversary, Fate
from .rehearsal import IN_MANY, PROMISED_CALLS, SELDOM, Rehearsed

CAUGHT_SHARE: Final = 0.99
SURE: Final = 0.999
"""With twenty of them judged, less would find fault with one in every run of the benchmark."""
PROMISED_SUSPICION: Final = {
    Adversary.INT8_CHANNEL: 1.0,
    Adversary.INT8_BLOCK: 0.998,
    Adversary.FP8: 1.0,
    Adversary.INT4: 1.0,
    Adversary.LOW_RANK: 1.0,
    Adversary.WRONG_EXPERT: 1.0,
    Adversary.ZEROS: 1.0,
    Adversary.GARBAGE: 1.0,
    Adversary.STALE_OUTPUT: 1.0,
    Adversary.BIAS: 0.96,
}
"""Share of audits of one row, with eight projections, that the design says end in suspicion."""

NO_PART: Final = frozenset({Adversary.RECEIPTS_FOR_WORK_NOT_DONE})
"""Adversaries whose answers are right, whatever they claim."""
NO_EVIDENCE: Final = {
    Fate.STRIKES: "there is none: its results are right, and nothing is proven against it",
    Fate.REJECTED: "there is none and need be none: what was wrong of it was never accepted",
}
NEVER_ASKED: Final = "it was never let in, so no answer can have asked it"
NOT_CONVICTED: Final = "there is none: it was not convicted"


@dataclass(frozen=True)
class Measured:
    """One adversary's bouts on the wire, and its runs without."""

    adversary: Adversary
    bouts: Sequence[Bout]
    wire_cap: int
    rehearsed: Rehearsed | None
    rehearsal_cap: int
    asked: Sequence[Asked] = ()
    trusted: Sequence[Bout] = ()
    seed: int = 0

    @property
    def verdicts(self) -> dict[str, int]:
        """How its bouts ended."""
        return dict(Counter(bout.verdict for bout in self.bouts))

    @property
    def evidence_verified(self) -> bool | None:
        """Whether each verdict on the wire came with evidence that verifies offline; None without verdicts."""
        bouts = [*self.bouts, *self.trusted]
        convicted = [bout for bout in bouts if bout.verdict == QUARANTINED]
        return all(bout.evidence and all(bout.evidence) for bout in convicted) if convicted else None

    @property
    def audited_answers_equal(self) -> bool | None:
        """Whether audited answers were the honest ones, token for token; None when none was asked for."""
        return all(asked.equal for asked in self.asked) if self.asked else None

    @property
    def always_cheats(self) -> bool:
        """Whether what it does shows in each call."""
        return self.rehearsed is not None and self.adversary not in SELDOM | IN_MANY

    @property
    def within(self) -> tuple[int, int]:
        """How many runs without a wire were over within the calls that are promised, and how many runs there were."""
        calls = self.rehearsed.calls if self.rehearsed is not None else ()
        return sum(one is not None and one <= PROMISED_CALLS for one in calls), len(calls)

    @property
    def retried_answers_equal(self) -> bool | None:
        """Whether each answer of a call whose result was rejected or missing is the honest one; None without such calls.

        Answers of calls that are audited afterwards are given before the audit, so nothing is compared of them.
        """
        compared = [bout.retried_equal for bout in self.bouts if bout.retried_equal is not None]
        return all(compared) if compared else None

    @property
    def faults(self) -> list[str]:
        """What is not as promised; empty when all is."""
        found = []
        wanted = {Fate.VERDICT: (QUARANTINED,), Fate.STRIKES: (STRUCK,)}.get(self.adversary.fate)
        for verdict, count in self.verdicts.items():
            if not (verdict in wanted if wanted else verdict.startswith("rejected")):
                found.append(f"{count} of {len(self.bouts)} runs on the wire: {verdict}")
        if self.evidence_verified is False:
            found.append("evidence does not verify")
        if self.retried_answers_equal is False:
            found.append("answers are not the honest ones")
        if any(bout.credit_equal is False for bout in self.bouts):
            found.append("credit is not what was done")
        if self.audited_answers_equal is False:
            found.append("audited answers are not the honest ones")
        if self.asked and self.adversary not in NO_PART and not sum(asked.part for asked in self.asked):
            found.append("it had no part in audited answers")
        if any(bout.innocents_accused for bout in [*self.bouts, *self.trusted]):
            found.append("an honest node was accused")
        uncaught = sum(bout.verdict != QUARANTINED for bout in self.trusted)
        if uncaught:
            found.append(f"{uncaught} of {len(self.trusted)} trusted nodes not caught on the wire")
        rehearsed = self.rehearsed
        if rehearsed is not None and self.always_cheats:
            within, runs = self.within
            if within < CAUGHT_SHARE * runs:
                found.append(f"within {PROMISED_CALLS} calls in {within / runs:.1%} of runs")
            promised = PROMISED_SUSPICION.get(self.adversary)
            audits = rehearsed.audits
            if promised is not None and audits and interval(rehearsed.suspected, audits, SURE)[1] < promised:
                found.append(f"suspected in {rehearsed.suspected / audits:.1%} of audits")
        return found

    def document(self) -> dict[str, Any]:
        """The JSON; the calls are those of the many runs where there are any, otherwise of the wire."""
        wire, credited = [bout.calls for bout in self.bouts], [bout.credit_equal for bout in self.bouts]
        many = self.rehearsed.calls if self.rehearsed is not None else wire
        return {
            "adversary": self.adversary.name.lower(),
            "seed": self.seed,
            "does": self.adversary.value,
            "runs": len(many),
            "calls_from": "wire" if self.rehearsed is None else "simulation",
            "calls_until_caught_median": quantile(many, 0.5),
            "calls_until_caught_p99": quantile(many, 0.99),
            "verdicts": self.verdicts,
            "evidence_verified": NO_EVIDENCE.get(self.adversary.fate, NOT_CONVICTED)
            if self.evidence_verified is None
            else self.evidence_verified,
            "audited_answers_equal": NEVER_ASKED
            if self.audited_answers_equal is None
            else self.audited_answers_equal,
            "audited": {
                "answers": sum(asked.answers for asked in self.asked),
                "results_that_cheated": sum(asked.part for asked in self.asked),
                "frames_sent_to_two": sum(asked.hedges for asked in self.asked),
                "nodes_vanished": sum(asked.vanished for asked in self.asked),
            },
            "retried_answers_equal": self.retried_answers_equal,
            "as_promised": not self.faults,
            "faults": self.faults,
            "wire": {
                "source": "a real network; the adversary is a newcomer, all of whose first calls are audited",
                "runs": len(wire),
                "cap": self.wire_cap,
                "calls_until_caught_median": quantile(wire, 0.5),
                "calls_until_caught_p99": quantile(wire, 0.99),
                "evidence_files": sum(len(bout.evidence) for bout in self.bouts),
                "wrong_answers_until_caught": sum(bout.wrong_answers for bout in self.bouts),
                "innocents_accused": sum(bout.innocents_accused for bout in self.bouts),
                "credit_equals_work": None if None in credited else all(credited),
            },
            "wire_trusted": self._wire_trusted() if self.trusted else None,
            "simulation": None if self.rehearsed is None else self._simulation(self.rehearsed),
        }

    def _wire_trusted(self) -> dict[str, Any]:
        calls = [bout.calls for bout in self.trusted]
        seconds = [bout.seconds for bout in self.trusted if bout.seconds is not None]
        return {
            "source": "a real network with the default settings of audits; a trusted node at 2 %, calls of up to 8 rows through two "
            "experts, one after the other without waiting for audits",
            "runs": len(calls),
            "calls_until_caught_median": quantile(calls, 0.5),
            "calls_until_caught_most": quantile(calls, 1.0),
            "seconds_until_caught_median": sorted(seconds)[len(seconds) // 2] if seconds else None,
        }

    def _simulation(self, rehearsed: Rehearsed) -> dict[str, Any]:
        within, runs = self.within
        return {
            "source": "the same executor, policy, checks and recomputation without a wire; a trusted node at 2 %",
            "runs": runs,
            "cap": self.rehearsal_cap,
            "runs_within_228_calls": within,
            "share_within_228_calls": within / runs,
            "share_within_228_calls_95": interval(within, runs),
            "promised_within_228_calls": CAUGHT_SHARE if self.always_cheats else None,
            "audits": rehearsed.audits,
            "suspected": rehearsed.suspected,
            "convicted": rehearsed.convicted,
        }


def table(measured: Sequence[Measured]) -> str:
    """The table for people."""
    lines = [
        f"{'adversary':<27}{'wire':>5}{'trusted':>9}{'median':>8}{'p99':>7}{'<=228':>8}{'suspected':>11}{'convicted':>11}"
        f"  {'evidence':<10}{'audited':<9}{'part':>5}  {'outcome':<36}as promised"
    ]
    for one in measured:
        rehearsed = one.rehearsed
        many = ["-"] * 5
        if rehearsed is not None:
            calls, audits = rehearsed.calls, max(rehearsed.audits, 1)
            many = [
                _calls(quantile(calls, 0.5), one.rehearsal_cap),
                _calls(quantile(calls, 0.99), one.rehearsal_cap),
                f"{one.within[0] / len(calls):.1%}",
                f"{rehearsed.suspected / audits:.1%}",
                f"{rehearsed.convicted / audits:.1%}",
            ]
        wire = _calls(quantile([bout.calls for bout in one.bouts], 0.5), one.wire_cap)
        trusted = _calls(quantile([bout.calls for bout in one.trusted], 0.5), 0) if one.trusted else "-"
        outcome = ", ".join(f"{count} {verdict}" for verdict, count in one.verdicts.items())
        lines.append(
            f"{one.adversary.name.lower():<27}{wire:>5}{trusted:>9}{many[0]:>8}{many[1]:>7}{many[2]:>8}{many[3]:>11}{many[4]:>11}"
            f"  {_yes(one.evidence_verified):<10}{_yes(one.audited_answers_equal):<9}{sum(asked.part for asked in one.asked):>5}"
            f"  {outcome:<36}{'yes' if not one.faults else 'NO: ' + '; '.join(one.faults)}"
        )
    lines.append(together(measured))
    lines.append(
        "wire: median calls of newcomers on a real network; trusted: of nodes audited at 2 % there. median, p99, <=228: calls of "
        "nodes audited at 2 %, without a wire. suspected, convicted: of the audits there, each of one row. evidence: verified "
        "offline. audited: whether audited answers were the honest ones; part: how many wrong results they waited for, or were rejected."
    )
    return "\n".join(lines)


def together(measured: Sequence[Measured]) -> str:
    """A line about all kinds that always cheat, and the seed."""
    always = [one.within for one in measured if one.always_cheats]
    within, runs = sum(one[0] for one in always), sum(one[1] for one in always)
    share = within / max(runs, 1)
    kept = "yes" if share >= CAUGHT_SHARE else "NO"
    seeds = ", ".join(str(seed) for seed in sorted({one.seed for one in measured}))
    return (
        f"{len(always)} kinds that always cheat, together: within {PROMISED_CALLS} calls in {share:.2%} of {runs} runs, promised in "
        f"{CAUGHT_SHARE:.0%}: {kept}. Seed {seeds}"
    )


def quantile(calls: Sequence[int | None], share: float) -> int | None:
    """The smallest number of calls that so large a share of runs did not exceed; None when they did not end."""
    if not calls:
        return None
    ordered = sorted(math.inf if one is None else one for one in calls)
    found = ordered[max(math.ceil(share * len(ordered)), 1) - 1]
    return None if math.isinf(found) else int(found)


def interval(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) for the probability of what happened `count` times."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (count + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(count * (of - count) / of + z * z / 4)
    return middle - half if count else 0.0, middle + half if count < of else 1.0


def _calls(found: int | None, cap: int) -> str:
    return f">{cap}" if found is None else str(found)


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "NO"
