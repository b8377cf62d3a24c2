"""Canonical bytes of every format, layout and activation mean the same numbers to audits as to an oracle written by hand; bytes
that are not the manifest's are refused."""

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
from folkmoot.coordinator.audit.expert_sketching import sketch_of
from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.tests.support.expert_oracle import ALL_FORMS, oracle, random_bytes, unit
from folkmoot.tests.support.memory_experts import MemoryExperts
from folkmoot.trust.expert_arithmetic import expert_output
from folkmoot.trust.projections import derive_projections
from folkmoot.trust.sketch import sketch_expert

KEY = ExpertKey(1, 2)


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS, ids=str)
def test_every_form_means_what_the_oracle_says(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    step = unit(form)
    spec = ExpertSpec(2 * step if step > 1 else 40, 3 * step if step > 1 else 24, form, layout, activation)
    data = random_bytes(spec, 5)
    rows = torch.randn(4, spec.hidden, generator=torch.Generator().manual_seed(1))
    found = expert_output(
        expert_form(spec, "bfloat16"), expert_weights(Expert.load(spec, data)), rows.numpy()
    )
    expected = oracle(spec, data, rows).numpy()
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize(("form", "layout", "activation"), ALL_FORMS, ids=str)
def test_sketches_of_every_form_are_those_of_the_plain_weights(
    form: WeightFormat, layout: Layout, activation: Activation
) -> None:
    hidden, intermediate = 288, 544
    spec = ExpertSpec(hidden, intermediate, form, layout, activation)
    expert = Expert.load(spec, random_bytes(spec, 6))
    projections = derive_projections(b"s" * 32, 1, b"m" * 32, 3, hidden, intermediate, 4)
    found, expected = sketch_of(projections, expert), sketch_expert(projections, expert_weights(expert))
    for name in ("gate", "up", "down", "gate_bias", "up_bias", "down_bias"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max(initial=0))


def test_the_weights_do_not_look_into_the_bytes() -> None:
    spec = ExpertSpec(16, 8, "float32", Layout.SEPARATE)
    data = bytearray(random_bytes(spec, 1))
    weights = expert_weights(Expert.load(spec, data))
    before = weights.up.copy()
    data[:] = bytes(len(data))
    assert np.array_equal(weights.up, before)


def test_the_type_of_activations_says_what_may_be_rounded() -> None:
    spec = ExpertSpec(16, 8, "float32", Layout.SEPARATE)
    bits = [expert_form(spec, dtype).significand_bits for dtype in ("bfloat16", "float16", "float32")]
    assert bits == [8, 11, 24]


def test_damaged_bytes_convict_nobody() -> None:
    class Damaged(MemoryExperts):
        def read_expert(self, key: ExpertKey, offset: int = 0, length: int | None = None) -> bytes:
            data = bytearray(super().read_expert(key, offset, length))
            data[7] ^= 1
            return bytes(data)

    with pytest.raises(DamagedExpertError, match="not those of the manifest"):
        CanonicalExperts(Damaged()).weights(KEY)
    assert CanonicalExperts(MemoryExperts()).public(ExpertKey(9, 9)) is None
