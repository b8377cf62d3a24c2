"""Rows with known answers: the answers are those of the definition for every form of expert, each is computed once, and a damaged
disk is no reason to accuse anybody."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from folkmoot.coordinator.audit.canonical_weights import (
    CanonicalExperts,
    DamagedExpertError,
    expert_form,
    expert_weights,
)
from folkmoot.coordinator.probe.trial import Trials, exact_answer, frames_of
from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.tests.support.expert_oracle import ALL_FORMS, random_bytes, unit
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.expert_arithmetic import expert_output


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS, ids=str)
def test_answers_are_those_of_the_definition(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    step = unit(form)
    spec = ExpertSpec(2 * step if step > 1 else 40, 3 * step if step > 1 else 24, form, layout, activation)
    expert = Expert.load(spec, random_bytes(spec, 5))
    rows = torch.randn(3, spec.hidden, generator=torch.Generator().manual_seed(1))
    meant = expert_output(expert_form(spec, "bfloat16"), expert_weights(expert), rows.numpy())
    found = exact_answer(expert_form(spec, "bfloat16"), expert, rows)
    np.testing.assert_allclose(found, meant, rtol=1e-12, atol=1e-12 * np.abs(meant).max())


def test_a_frame_has_the_trials_of_one_layer_each_with_rows_of_its_own() -> None:
    model = MemoryExperts(experts=6)
    trials = Trials(CanonicalExperts(model), 3)
    keys = [ExpertKey(1, 4), ExpertKey(0, 2), ExpertKey(1, 0)]
    frames = frames_of([trials.of(key) for key in keys])
    assert [[trial.key for trial in frame.trials] for frame in frames] == [
        [ExpertKey(0, 2)],
        [ExpertKey(1, 0), ExpertKey(1, 4)],
    ]
    frame = frames[1]
    assert frame.pairs.experts.tolist() == [0, 0, 0, 4, 4, 4]
    assert frame.pairs.rows.tolist() == list(range(6)) == list(range(len(frame.hidden)))
    experts = torch.from_numpy(frame.pairs.experts.astype(np.int64))[:, None]
    right = model.answer(1, frame.hidden, experts, torch.ones(6, 1))
    np.testing.assert_allclose(frame.answer, right.numpy(), rtol=1e-4, atol=1e-4)


def test_a_trial_is_made_once_while_there_is_room_and_rows_are_nobodys_to_guess() -> None:
    model = MemoryExperts()
    one, other = (Trials(CanonicalExperts(model), 2) for _ in range(2))
    keys = sorted(model.manifest.experts)
    first = one.of(keys[0])
    assert one.of(keys[0]) is first and model.reads[keys[0]] == 1
    assert one.known == {keys[0]}
    assert not torch.equal(other.of(keys[0]).hidden, first.hidden)
    small = Trials(CanonicalExperts(model), 2, most_bytes=2 * first.size)
    for key in keys:
        small.of(key)
    assert small.known == set(keys[-2:])


def test_bytes_that_are_not_the_manifests_give_no_answer() -> None:
    class Damaged(MemoryExperts):
        def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
            data = bytearray(super().read_expert(key, offset, length))
            data[7] ^= 1
            return bytes(data)

    with pytest.raises(DamagedExpertError):
        Trials(CanonicalExperts(Damaged()), 2).of(ExpertKey(0, 0))
