"""Proven: the rate rule as designed, lowered only by audits; a node that always cheats is audited within the promised
number of calls, whatever chance does; standing changes for the stated reasons and for no others."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.errors import UsageError
from folkmoot.ids import ExpertKey, NodeId
from folkmoot.trust import standing
from folkmoot.trust.audit_policy import AuditPolicy, AuditPolicySettings, AuditSubject, kind_of
from folkmoot.trust.audit_statements import OpeningKind
from folkmoot.trust.standing import Standing, StandingSettings, Status

NODE = NodeId("a" * 64)
SUBJECT = AuditSubject(NODE, ExpertKey(3, 7), "1.0")
OTHERS = [
    SUBJECT._replace(node=NodeId("b" * 64)),
    SUBJECT._replace(expert=ExpertKey(3, 8)),
    SUBJECT._replace(software_version="1.1"),
]
RULES = StandingSettings(probation_audits=3, probation_experts=2, strikes=3, strike_window_s=100)


def trusted(audits: int, lowest_rate: float = 0.02) -> AuditPolicy:
    policy = AuditPolicy(AuditPolicySettings(lowest_rate=lowest_rate))
    policy.restore({SUBJECT: audits})
    return policy


@pytest.mark.parametrize(
    ("audits", "rate"), [(0, 1.0), (1, 1.0), (49, 1.0), (50, 0.02), (51, 0.02), (10**6, 0.02)]
)
def test_the_rate_is_that_of_the_rule(audits: int, rate: float) -> None:
    assert trusted(audits).rate(SUBJECT) == pytest.approx(rate)


def test_a_lower_floor_is_reached_by_audits_alone() -> None:
    policy = AuditPolicy(AuditPolicySettings(first_audits=10, lowest_rate=0.001))
    policy.restore({SUBJECT: 100})
    assert policy.rate(SUBJECT) == pytest.approx(0.01)


@given(st.lists(st.booleans(), max_size=120))
def test_only_audits_count_and_a_failure_counts_all_away(ends: list[bool]) -> None:
    policy, run = AuditPolicy(), 0
    for passed in ends:
        policy.choose([SUBJECT], 0.5)
        policy.record(SUBJECT, passed)
        run = run + 1 if passed else 0
        assert policy.rate(SUBJECT) == (1.0 if run < 50 else max(0.02, 1 / run))
    assert all(policy.rate(other) == 1.0 for other in OTHERS)


@given(st.floats(0, 1, exclude_max=True))
def test_one_draw_decides_for_all_experts_of_a_call(draw: float) -> None:
    policy, subjects = trusted(1000), [SUBJECT, *OTHERS]
    policy.restore(dict.fromkeys(subjects, 1000))
    assert policy.choose(subjects, draw) == (subjects if draw < 0.02 else [])
    assert policy.choose(subjects, draw, always=True) == subjects
    policy.record(SUBJECT, passed=False)
    assert policy.choose(subjects, draw) == (subjects if draw < 0.02 else [SUBJECT]), "each by its own rate"


@pytest.mark.parametrize("lowest_rate", [0.02, 0.005])
def test_an_everlasting_cheat_is_audited_within_four_mean_distances_whatever_chance_does(
    lowest_rate: float,
) -> None:
    policy, longest = trusted(10**5, lowest_rate), int(4 / lowest_rate)
    for _ in range(3):
        assert not any(policy.choose([SUBJECT], 0.999) for _ in range(longest))
        assert policy.choose([SUBJECT], 0.999) == [SUBJECT]


def test_gaps_that_are_cut_short_hardly_change_the_rate() -> None:
    generator, policy, calls = random.Random(5), trusted(10**5), 200_000
    audits = sum(bool(policy.choose([SUBJECT], generator.random())) for _ in range(calls))
    assert 0.0190 < audits / calls < 0.0215


def test_each_subject_is_passed_over_by_itself() -> None:
    policy, other = AuditPolicy(), OTHERS[1]
    policy.restore({SUBJECT: 10**5, other: 10**5})
    assert not any(policy.choose([SUBJECT], 0.999) for _ in range(100))
    assert not any(policy.choose([SUBJECT, other], 0.999) for _ in range(100))
    assert policy.choose([SUBJECT, other], 0.999) == [SUBJECT]
    assert not any(policy.choose([other], 0.999) for _ in range(99))
    assert policy.choose([other], 0.999) == [other]


def test_what_was_chosen_and_given_up_is_chosen_again() -> None:
    policy = trusted(10**5)
    assert policy.choose([SUBJECT], 0.001) == [SUBJECT]
    policy.given_up([SUBJECT])
    assert policy.choose([SUBJECT], 0.999) == [SUBJECT]
    assert policy.choose([SUBJECT], 0.999) == []


def test_a_node_that_calls_its_software_by_ever_new_names_leaves_no_records() -> None:
    policy, other = AuditPolicy(), OTHERS[0]
    policy.record(other, True)
    for version in map(str, range(50)):
        subject = SUBJECT._replace(software_version=version)
        policy.keep_version(NODE, version)
        policy.choose([subject], 0.5)
        policy.record(subject, True)
        assert set(policy.passed) == {subject, other}
        assert policy.rate(SUBJECT) == 1.0


def test_openings_are_raw_and_tight_equally_often_and_as_chance_has_it() -> None:
    chance = random.Random(22)
    kinds = [kind_of(chance.random()) for _ in range(10_000)]
    assert 4800 < kinds.count(OpeningKind.TIGHT) < 5200
    # What came before says nothing of what comes next.
    after_raw = [kind for before, kind in itertools.pairwise(kinds) if before is OpeningKind.RAW]
    assert 0.45 < after_raw.count(OpeningKind.TIGHT) / len(after_raw) < 0.55
    assert kind_of(0.0) is OpeningKind.RAW and kind_of(math.nextafter(1, 0)) is OpeningKind.TIGHT


def test_a_node_that_is_forgotten_begins_anew() -> None:
    policy, other = AuditPolicy(), OTHERS[0]
    policy.restore({SUBJECT: 100, other: 10**5})
    for _ in range(150):
        assert not policy.choose([SUBJECT, other], 0.999)
    policy.forget(NODE)
    assert policy.passed == {other: 10**5}
    assert policy.rate(SUBJECT) == 1.0
    assert not any(policy.choose([other], 0.999) for _ in range(50))
    assert policy.choose([other], 0.999) == [other], "whose calls are remembered"


def test_no_bad_number_is_restored() -> None:
    assert trusted(-5).rate(SUBJECT) == 1.0


@pytest.mark.parametrize(("first", "lowest"), [(0, 0.02), (50, 0.0), (50, 1.1)])
def test_rules_that_cannot_be_are_refused(first: int, lowest: float) -> None:
    with pytest.raises(UsageError):
        AuditPolicySettings(first, lowest)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StandingSettings(probation_audits=0),
        lambda: StandingSettings(strikes=0),
        lambda: StandingSettings(strike_window_s=0),
    ],
)
def test_standing_rules_that_cannot_be_are_refused(make: Callable[[], StandingSettings]) -> None:
    with pytest.raises(UsageError):
        make()


def a_member() -> Standing:
    node = standing.newcomer(0)
    for _ in range(3):
        node = standing.audit_passed(node, RULES, 1)
    return node


def test_a_newcomer_gets_little_until_it_has_passed() -> None:
    node = standing.newcomer(0)
    for _ in range(2):
        node = standing.audit_passed(node, RULES, 1)
        assert node.status is Status.PROBATION
        assert node.always_audited
        assert node.most_experts(RULES) == 2
    node = standing.audit_passed(node, RULES, 5)
    assert (node.status, node.since_s, node.always_audited) == (Status.MEMBER, 5, False)
    assert node.most_experts(RULES) is None
    assert standing.audit_passed(node, RULES, 9) == node


def test_strikes_lapse_and_too_many_mean_probation() -> None:
    node = a_member()
    for now in (10, 50, 115):
        node = standing.struck(node, RULES, now, "a late opening")
        assert node.status is Status.MEMBER
    node = standing.struck(node, RULES, 120, "a late opening")
    assert node.status is Status.PROBATION
    assert "late opening" in node.reason
    assert (node.passed, node.strikes_s) == (0, ())


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_strikes_are_never_fraud_and_never_pile_up(times: list[float]) -> None:
    node = a_member()
    for now in sorted(times):
        node = standing.struck(node, RULES, now, "late")
        assert node.serves
        assert len(node.strikes_s) < RULES.strikes


@pytest.mark.parametrize("before", [standing.newcomer(0), a_member()])
def test_a_verdict_quarantines_until_the_operator_admits(before: Standing) -> None:
    node = standing.convicted(before, 9, "layer 3 expert 7 was wrong by 1.5 %")
    for _ in range(10):
        node = standing.audit_passed(node, RULES, 10)
        node = standing.struck(node, RULES, 10, "late")
    assert (node.status, node.serves, node.most_experts(RULES)) == (Status.QUARANTINED, False, 0)
    assert "1.5 %" in node.reason
    assert standing.admitted(node, 11, "the operator's word").status is Status.PROBATION


def test_a_ban_outlasts_a_verdict() -> None:
    node = standing.banned(a_member(), 1, "the operator's word")
    assert standing.convicted(node, 2, "wrong") == node
    assert standing.quarantined(node, 2, "wrong").status is Status.BANNED
    assert standing.quarantined(a_member(), 2, "asked for").status is Status.QUARANTINED


def test_that_a_node_was_admitted_is_known_whatever_becomes_of_it() -> None:
    node = standing.admitted(standing.convicted(a_member(), 9, "wrong"), 11, "sorry")
    assert node.admitted_s == 11
    for _ in range(3):
        node = standing.audit_passed(node, RULES, 20)
    assert (node.status, node.admitted_s) == (Status.MEMBER, 11)
    for now in (30, 31, 32, 33):
        node = standing.struck(node, RULES, now, "late")
    assert (node.status, node.admitted_s) == (Status.PROBATION, 11)
    assert standing.banned(standing.convicted(node, 40, "wrong"), 41, "enough").admitted_s == 11


def test_a_calendar_that_is_set_back_makes_no_verdict_later_than_the_word_that_forgives_it() -> None:
    node = standing.admitted(standing.convicted(a_member(), 1000, "wrong"), 500, "sorry")
    assert (node.since_s, node.admitted_s) == (500, 1000)


def test_strikes_lapse_by_the_clock_that_nobody_sets() -> None:
    node = a_member()
    for calendar_s, steady_s in ((1e6, 20.0), (0.0, 30.0)):
        node = standing.struck(node, RULES, calendar_s, "late", steady_s)
    assert node.strikes_s == (20.0, 30.0)
    node = standing.struck(node, RULES, 5.0, "late", 500.0)
    assert node.strikes_s == (500.0,)
