"""An opening of what was computed lately is what was computed, and of anything else nothing is found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.expert import Expert
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.node import kept_activations
from folkmoot.node.challenges import Activations, Question, open_parts
from folkmoot.node.frames import Work
from folkmoot.node.kept_activations import KeptActivations
from folkmoot.node.routing import Routing
from folkmoot.tests.support.expert_oracle import random_bytes, relative_error
from folkmoot.tests.support.native_isas import available
from folkmoot.trust.audit_statements import OpeningKind

pytestmark = pytest.mark.skipif(not available(), reason="torch leaves nothing to keep")
HIDDEN, INTERMEDIATE = 32, 16
SPEC = ExpertSpec(HIDDEN, INTERMEDIATE, WeightFormat.FLOAT32, Layout.SEPARATE)
TIGHT = 1.5e-6


def experts(spec: ExpertSpec = SPEC, count: int = 3) -> list[Expert]:
    return [Expert.load(spec, random_bytes(spec, seed)) for seed in range(count)]


def work(held: list[Expert], rows: list[list[int]], sequence: int = 1, seed: int = 0) -> Work:
    """A frame that sends these rows to each expert."""
    most = max(max(some) for some in rows)
    hidden = torch.randn(most + 1, HIDDEN, generator=torch.Generator().manual_seed(seed))
    groups = [
        Group(expert, torch.tensor(some), torch.ones(len(some)))
        for expert, some in zip(held, rows, strict=True)
    ]
    parts = tuple((number, group.rows, group.gates) for number, group in enumerate(groups))
    routing = Routing(parts, sum(map(len, rows)), max(map(len, rows)), b"")
    return Work(sequence, 3, hidden, groups, routing, b"")


def computed(kept: KeptActivations, frame: Work) -> bool:
    """Computes a frame as an executor does; whether there was room for what it opens."""
    room = kept.room(frame)
    feed_forward(frame.groups, frame.hidden, room)
    if room is not None:
        kept.keep(frame, room)
    return room is not None


def question(frame: Work, asked: list[int]) -> Question:
    """All pairs of some rows of a frame, as a coordinator asks for them."""
    parts = {}
    for number, group in enumerate(frame.groups):
        places = [asked.index(row) for row in group.rows.tolist() if row in asked]
        if places:
            parts[number] = (group.expert, torch.tensor(sorted(places)))
    return Question(
        sequence=frame.sequence,
        layer=frame.layer,
        kind=OpeningKind.TIGHT,
        dtype=torch.float32,
        asked=tuple(asked),
        hidden=frame.hidden[torch.tensor(asked)],
        numbers=tuple(parts),
        parts=tuple(parts.values()),
        challenge=bytes(32),
    )


def agrees(found: Activations | None, about: Question) -> bool:
    """Whether something was found, which is what opening anew gives."""
    if found is None:
        return False
    again = open_parts(about.parts, about.hidden)
    assert found.gate.shape == again.gate.shape
    for mine, theirs in ((found.gate, again.gate), (found.up, again.up)):
        assert relative_error(mine, theirs.double()) <= TIGHT
    return True


@pytest.mark.parametrize("layout", [Layout.SEPARATE, Layout.UNGATED])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_rows_of_a_frame_are_found(layout: Layout, data: st.DataObject) -> None:
    activation = Activation.RELU_SQUARED if layout is Layout.UNGATED else Activation.SWIGLU
    held = experts(replace(SPEC, layout=layout, activation=activation))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True).map(sorted),
            min_size=3,
            max_size=3,
        )
    )
    frame, kept = work(held, rows), KeptActivations()
    assert computed(kept, frame)
    used = sorted({row for some in rows for row in some})
    asked = sorted(data.draw(st.lists(st.sampled_from(used), min_size=1, unique=True)))
    about = question(frame, asked)
    assert agrees(kept.find(about), about)


def other_rows(about: Question) -> Question:
    return replace(about, hidden=about.hidden + 1e-6)


def another_frame(about: Question) -> Question:
    return replace(about, sequence=2)


def another_layer(about: Question) -> Question:
    return replace(about, layer=2)


def rows_beyond(about: Question) -> Question:
    return replace(about, asked=(0, 1000))


def rows_in_other_places(about: Question) -> Question:
    return replace(about, asked=(0, 1))


def an_expert_that_was_not_asked(about: Question) -> Question:
    [stranger] = experts(count=1)
    return replace(about, numbers=(*about.numbers, 3), parts=(*about.parts, (stranger, torch.tensor([0]))))


def a_row_that_did_not_go_there(about: Question) -> Question:
    (first, _), *rest = about.parts
    return replace(about, parts=((first, torch.tensor([0, 1])), *rest))


@pytest.mark.parametrize(
    "change",
    [
        other_rows,
        another_frame,
        another_layer,
        rows_beyond,
        rows_in_other_places,
        an_expert_that_was_not_asked,
        a_row_that_did_not_go_there,
    ],
)
def test_whatever_was_not_computed_is_not_found(change: Callable[[Question], Question]) -> None:
    frame, kept = work(experts(), [[0], [0, 1, 2], [2]]), KeptActivations()
    computed(kept, frame)
    about = question(frame, [0, 2])
    assert agrees(kept.find(about), about)
    assert kept.find(change(about)) is None


def test_a_row_repeated_in_a_frame_is_found_where_it_was_asked_for() -> None:
    """Rows that are equal may have gone to different experts."""
    frame, kept = work(experts(), [[0], [1], [0, 1]]), KeptActivations()
    frame.hidden[1] = frame.hidden[0]
    computed(kept, frame)
    for asked in ([0], [1], [0, 1]):
        about = question(frame, asked)
        assert agrees(kept.find(about), about)


def test_memory_is_bounded_and_the_last_frames_are_in_it() -> None:
    held, one = experts(), 4 * (2 * 3 * INTERMEDIATE + 2 * HIDDEN)
    kept = KeptActivations(most_bytes=5 * one + 64)
    frames = [work(held, [[0], [1], [0]], sequence, sequence) for sequence in range(1, 40)]
    for number, frame in enumerate(frames):
        assert computed(kept, frame)
        found = [agrees(kept.find(question(past, [0, 1])), question(past, [0, 1])) for past in frames]
        assert found[: number + 1] == [False] * max(0, number - 4) + [True] * min(5, number + 1)
    much = work(held, [list(range(9)), [0], [0]], 99)
    assert not computed(kept, much)
    assert kept.find(question(much, [0])) is None
    assert agrees(kept.find(question(frames[-1], [0])), question(frames[-1], [0]))


def test_frames_that_torch_computes_take_no_room_from_others() -> None:
    held, kept = experts(), KeptActivations(most_bytes=20_000)
    frame = work(held, [[0], [1], [0]])
    computed(kept, frame)
    for sequence in range(2, 9):
        assert not computed(kept, work(held, [list(range(30)), [0], [1]], sequence))
    assert agrees(kept.find(question(frame, [0, 1])), question(frame, [0, 1]))


def test_a_frame_that_failed_is_not_found_and_neither_is_what_gave_way_to_it() -> None:
    held, one = experts(), 4 * (2 * 3 * INTERMEDIATE + 2 * HIDDEN)
    kept = KeptActivations(most_bytes=2 * one)
    first, second, failed, last = (work(held, [[0], [1], [0]], number, number) for number in range(1, 5))
    computed(kept, first)
    computed(kept, second)
    assert kept.room(failed) is not None
    for frame, found in ((first, False), (second, True), (failed, False)):
        assert agrees(kept.find(question(frame, [0, 1])), question(frame, [0, 1])) == found
    computed(kept, last)
    for frame, found in ((first, False), (second, False), (failed, False), (last, True)):
        assert agrees(kept.find(question(frame, [0, 1])), question(frame, [0, 1])) == found


def test_frames_of_any_size_never_overwrite_what_is_found() -> None:
    held, kept, past = experts(), KeptActivations(most_bytes=6_000), []
    for sequence in range(1, 200):
        rows = list(range(1 + sequence * 7 % 5))
        past.append(work(held, [rows, [0], rows[-1:]], sequence, sequence))
        computed(kept, past[-1])
        for frame in past[-20:]:
            about = question(frame, [0])
            found = kept.find(about)
            assert found is None or agrees(found, about)
        assert agrees(kept.find(about), about)


def test_no_more_frames_are_kept_than_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_activations, "MOST_FRAMES", 3)
    held, kept = experts(), KeptActivations()
    frames = [work(held, [[0], [0], [0]], sequence) for sequence in range(1, 6)]
    for frame in frames:
        computed(kept, frame)
    assert [kept.find(question(frame, [0])) is not None for frame in frames] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_an_expert_that_was_dropped_is_let_go() -> None:
    held, kept = experts(), KeptActivations()
    frame = work(held, [[0], [0], [1]])
    computed(kept, frame)
    about, gone = question(frame, [0]), weakref.ref(held[2])
    assert agrees(kept.find(about), about)
    del held[2], frame, about
    gc.collect()
    assert gone() is None


def test_experts_whose_inputs_are_rounded_are_computed_again() -> None:
    spec = ExpertSpec(HIDDEN, INTERMEDIATE * 2, WeightFormat.INT8, Layout.SEPARATE)
    frame, kept = work(experts(spec), [[0], [0], [0]]), KeptActivations()
    assert not computed(kept, frame)
    assert kept.find(question(frame, [0])) is None
