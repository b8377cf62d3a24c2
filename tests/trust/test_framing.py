"""Proven: whatever rows a lying coordinator makes up (tiny, huge, or so that nearly everything cancels), no answer of an honest node to
them is evidence against it, in any format, layout and type of activations, by native kernels and by torch; without the leeway for
float32's noise such rows would convict; and who answers the same rows with other weights is convicted all the same where anything can
be said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from folkmoot.bench.made_rows import ATTACKS, of_sizes
from folkmoot.bench.random_experts import FORMS, RandomExperts, possible
from folkmoot.coordinator.audit.canonical_weights import CanonicalExperts
from folkmoot.ids import ExpertKey
from folkmoot.kernels.expert import Expert
from folkmoot.kernels.formats import DTYPES, Activation, ExpertSpec, Layout, WeightFormat
from folkmoot.tests.support.framing import KERNELS, accusation
from folkmoot.trust import recompute as verdicts
from folkmoot.trust.evidence_check import Outcome, PublicModel, Step, check_bytes
from folkmoot.trust.expert_arithmetic import Doubles

HIDDEN, INTERMEDIATE = 256, 96
KEY = ExpertKey(0, 0)
MANIFEST = b"a manifest"
REACHED = ("tiny", "huge", "cancelling in up", "cancelling in gate", "cancelling in both")


class Model:
    """One expert, public."""

    def __init__(self, form: WeightFormat, layout: Layout, activation: Activation, dtype: str) -> None:
        spec = ExpertSpec(HIDDEN, INTERMEDIATE, form.value, layout, activation)
        source = RandomExperts(spec, dtype, 1, 5)
        self.dtype = DTYPES[dtype]
        self.expert = Expert.load(spec, source.read_expert(KEY))
        self.canonical = CanonicalExperts(source)
        self.public = PublicModel(MANIFEST, self.canonical.public)

    def rows(self, attack: str) -> torch.Tensor:
        return torch.from_numpy(ATTACKS[attack](self.canonical.weights(KEY))).to(self.dtype)

    def check(self, rows: torch.Tensor, signed: torch.Tensor) -> list[Step]:
        """What anybody finds who checks the evidence file."""
        evidence = accusation(MANIFEST, KEY.layer, KEY.expert, rows, signed)
        return list(check_bytes(evidence.encode(), self.public))


def not_proven(steps: list[Step]) -> bool:
    """Whether all holds but the recomputation, which says so."""
    assert steps[-1].name == "recomputation", steps[-1]
    assert steps[-1].detail
    return steps[-1].outcome is Outcome.NOT_PROVEN and steps[-1].outcome.exit_code == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", WeightFormat)
def test_no_honest_node_is_framed_in_any_format(form: WeightFormat, dtype: str) -> None:
    model = Model(form, Layout.SEPARATE, Activation.SWIGLU, dtype)
    for attack in ATTACKS:
        rows = model.rows(attack)
        for name, compute in KERNELS.items():
            steps = model.check(rows, compute(model.expert, rows))
            assert not_proven(steps), (attack, name, steps[-1].detail)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "activation"), FORMS[1:])
def test_no_honest_node_is_framed_in_any_layout(layout: Layout, activation: Activation, dtype: str) -> None:
    for form in (WeightFormat.BFLOAT16, WeightFormat.INT4):
        if not possible(form, layout):
            continue
        model = Model(form, layout, activation, dtype)
        for attack in ATTACKS:
            rows = model.rows(attack)
            for name, compute in KERNELS.items():
                steps = model.check(rows, compute(model.expert, rows))
                assert not_proven(steps), (form, attack, name, steps[-1].detail)


def nothing(noise: Doubles, sizes: Doubles) -> Doubles:
    return np.zeros_like(noise)


@pytest.mark.parametrize("attack", REACHED)
def test_without_the_leeway_an_honest_node_would_be_framed(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(WeightFormat.BFLOAT16, Layout.SEPARATE, Activation.SWIGLU, "float32")
    rows = model.rows(attack)
    signed = KERNELS["kernels"](model.expert, rows)
    assert not_proven(model.check(rows, signed))
    monkeypatch.setattr(verdicts, "leeway", nothing)
    assert model.check(rows, signed)[-1].outcome is Outcome.PROVEN


@pytest.mark.parametrize("size", [1e-40, 1e-20, 1e20])
def test_where_nothing_can_be_said_the_check_says_so(size: float) -> None:
    model = Model(WeightFormat.BFLOAT16, Layout.SEPARATE, Activation.SWIGLU, "bfloat16")
    rows = torch.from_numpy(of_sizes(size)(model.canonical.weights(KEY))).to(model.dtype)
    [*_, last] = model.check(rows, torch.full(rows.shape, torch.nan))
    assert (last.outcome, "nothing can be said" in last.detail) == (Outcome.NOT_PROVEN, True)


CHEATS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "1.5 % too large": lambda answer: answer * 1.015,
    "of other weights": lambda answer: answer.roll(1, dims=1),
    "zeros": torch.zeros_like,
    "no number": lambda answer: answer * torch.nan,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cheat", CHEATS)
def test_one_row_in_use_among_made_ones_convicts_who_answers_it_wrongly(cheat: str, dtype: str) -> None:
    model = Model(WeightFormat.BFLOAT16, Layout.SEPARATE, Activation.SWIGLU, dtype)
    usual = torch.from_numpy(of_sizes(1.0)(model.canonical.weights(KEY))).to(model.dtype)
    rows = torch.cat([model.rows("tiny"), usual, model.rows("huge")])
    right = KERNELS["kernels"](model.expert, rows)
    steps = model.check(rows, CHEATS[cheat](right))
    assert steps[-1].outcome is Outcome.PROVEN
    assert "nothing can be said" in steps[-1].detail
