"""What is not known to be right is on the trail, or in the sources, for as long as a verdict could take it back, and no longer."""

from __future__ import annotations

import numpy as np

from folkmoot.coordinator.engine.ended_answers import EndedAnswer, EndedAnswers
from folkmoot.coordinator.engine.place import Place
from folkmoot.coordinator.engine.sources import Sources
from folkmoot.coordinator.engine.step_audits import StepAudits
from folkmoot.coordinator.engine.trail import Trail
from folkmoot.errors import UnavailableError
from folkmoot.ids import NodeId

ANN, BOB, CAT = (NodeId(letter * 64) for letter in "abc")
ARRIVAL = 7


class Walk:
    """A trail, and the steps that made it."""

    def __init__(self, most: int = 32) -> None:
        self.trail = Trail(ARRIVAL, most)

    def step(self, *nodes: NodeId, start: int, rows: int, length: int, made: int = 0) -> StepAudits:
        """A step over so many rows that consumed one result of each node."""
        audits = StepAudits(np.ones(rows, np.bool_), [ARRIVAL], lambda step, error: None)
        self.trail.stepping = rows
        self.trail.step(audits)
        audits.expect(len(nodes))
        self.trail.consumed(set(nodes), Place(start, length), length + made)
        return audits


def pass_all(*steps: StepAudits) -> None:
    for step in steps:
        step.passed_count = 1


def test_what_passed_leaves_in_order() -> None:
    walk = Walk()
    first = walk.step(ANN, start=0, rows=8, length=10)
    second = walk.step(ANN, start=8, rows=2, length=10, made=1)
    third = walk.step(ANN, start=10, rows=1, length=11, made=1)
    assert (walk.trail.ahead, walk.trail.room) == (11, 21)
    pass_all(second, third)
    assert walk.trail.cleared() is None
    pass_all(first)
    assert walk.trail.cleared() == 12
    assert walk.trail.clear
    assert (walk.trail.ahead, walk.trail.audits_passed) == (0, 3)
    assert not any(step.wanted for step in (first, second, third))
    assert walk.trail.condemn(ANN) is None


def test_a_verdict_takes_back_to_before_the_first_that_waits() -> None:
    walk = Walk()
    passed = walk.step(ANN, BOB, start=0, rows=10, length=10, made=1)
    passed.passed_count = 2
    assert walk.trail.cleared() == 11
    kept = walk.step(ANN, start=10, rows=1, length=11, made=1)
    dropped = [
        walk.step(BOB, start=11, rows=1, length=12, made=2),
        walk.step(ANN, start=13, rows=1, length=14, made=1),
    ]
    assert walk.trail.condemn(CAT) is None
    assert walk.trail.condemn(BOB) == Place(11, 12)
    assert [step.wanted for step in (kept, *dropped)] == [True, False, False]
    assert walk.trail.condemn(BOB) is None
    assert walk.trail.ahead == 1


def test_what_was_computed_again_goes_with_what_it_waited_behind() -> None:
    """Tokens wait for a step's audits; their keys and values are lost, and computed again in later steps."""
    walk = Walk()
    walk.step(ANN, start=9, rows=1, length=10, made=1)
    walk.step(BOB, start=0, rows=8, length=11)
    walk.step(BOB, start=8, rows=3, length=11, made=1)
    assert walk.trail.condemn(ANN) == Place(0, 10)
    assert walk.trail.clear


def test_a_step_that_came_to_nothing_leaves_nothing() -> None:
    walk = Walk()
    audits = StepAudits(np.ones(5, np.bool_), [ARRIVAL, 8], lambda step, error: None)
    walk.trail.stepping = 5
    walk.trail.step(audits)
    assert walk.trail.room == 27
    walk.trail.stop()
    assert (walk.trail.room, audits.members) == (32, {8})


def test_a_verdict_takes_the_interest_in_a_running_step() -> None:
    walk = Walk()
    walk.step(ANN, start=9, rows=1, length=10, made=1)
    running = StepAudits(np.ones(1, np.bool_), [ARRIVAL], lambda step, error: None)
    walk.trail.step(running)
    walk.trail.condemn(ANN)
    assert not running.wanted


def test_what_cannot_be_audited_is_told() -> None:
    walk = Walk()
    walk.step(ANN, start=0, rows=1, length=1)
    second = walk.step(ANN, start=1, rows=1, length=1)
    errors = [walk.trail.error]
    second.error = UnavailableError("no disk")
    errors.append(walk.trail.error)
    assert errors == [None, second.error]
    walk.trail.abandon()
    assert walk.trail.clear and not second.wanted


def test_a_step_is_done_when_it_is_over_and_all_has_passed() -> None:
    told: list[object] = []
    audits = StepAudits(np.ones(2, np.bool_), [ARRIVAL], lambda step, error: told.append((step, error)))
    error = UnavailableError("no disk")
    audits.passed()
    audits.impossible(error)
    assert told == [(audits, None), (audits, error)]
    audits.passed_count = 2
    done = [audits.done]
    audits.expect(3)
    done.append(audits.done)
    audits.passed_count = 3
    assert [*done, audits.done] == [False, False, True]


def test_sources_know_where_each_node_came_in() -> None:
    sources = Sources()
    sources.consumed({ANN}, Place(0, 10))
    sources.consumed({ANN, BOB}, Place(10, 11))
    sources.consumed({ANN, BOB, CAT}, Place(14, 15))
    assert sources.nodes == {ANN, BOB, CAT}
    assert [sources.condemn(node) for node in (ANN, BOB, CAT)] == [Place(0, 10), Place(10, 11), Place(14, 15)]
    sources.back_at(Place(10, 11))
    assert sources.nodes == {ANN}


def test_a_node_behind_tokens_that_were_read_is_remembered_from_where_it_was_taken_back_to() -> None:
    sources = Sources()
    sources.consumed({ANN}, Place(0, 10))
    sources.consumed({BOB}, Place(20, 21))
    sources.back_at(Place(12, 25))  # four of its tokens had been read
    assert sources.condemn(BOB) == Place(12, 21)
    sources.back_at(Place(0, 25))
    assert sources.condemn(ANN) == Place(0, 10)


def test_lost_keys_and_values_count_for_nobody() -> None:
    sources = Sources()
    sources.consumed({ANN}, Place(0, 10))
    sources.consumed({BOB}, Place(9, 10))
    sources.back_at(Place(0, 10))  # lost before a token was made
    assert sources.nodes == set()


def test_ended_answers_are_bounded_and_doubted_once() -> None:
    ended = EndedAnswers(most=3)
    for number, nodes in enumerate([{ANN}, {ANN, BOB}, {BOB}, {ANN}]):
        ended.add(EndedAnswer(str(number), nodes, 1000.5 + number))
    assert (ended.doubt(ANN), ended.doubt(ANN), ended.doubt(BOB)) == (2, 0, 1)
    assert ended.doubted == 3
    assert ended.document() == [
        {"id": "3", "node": ANN, "ended_unix_s": 1003},
        {"id": "2", "node": BOB, "ended_unix_s": 1002},
        {"id": "1", "node": ANN, "ended_unix_s": 1001},
    ]
