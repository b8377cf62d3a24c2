"""The expert feed-forward agrees with a float64 oracle in every layout, activation and weight type."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folkmoot.kernels.expert import Expert, ExpertBytesError
from folkmoot.kernels.feed_forward import Group, feed_forward
from folkmoot.kernels.formats import Activation, ExpertSpec, Layout

HONEST = {"float32": 1e-6, "float16": 1.2e-3, "bfloat16": 5.9e-3}
"""Relative error that an honest node may have on a whole row: for bfloat16, the honest band of the trust model."""
ROUNDING = {"float32": 1e-4, "float16": 2**-8, "bfloat16": 2**-5}
"""Bound for rows of a few elements, where roundings do not average out and a product may cancel."""
FORMS = [
    (Layout.SEPARATE, Activation.SWIGLU),
    (Layout.SEPARATE, Activation.GEGLU_TANH),
    (Layout.FUSED, Activation.SWIGLU),
    (Layout.FUSED_TRANSPOSED, Activation.SWIGLU),
    (Layout.INTERLEAVED_BIASED, Activation.CLAMPED_SWIGLU),
]


def random_bytes(spec: ExpertSpec, seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        (torch.randn(tensor.shape, generator=generator) * 0.3)
        .to(spec.torch_dtype)
        .view(torch.uint8)
        .numpy()
        .tobytes()
        for tensor in spec.tensors()
    ]
    return b"".join(parts)


def oracle(spec: ExpertSpec, data: bytes, rows: torch.Tensor) -> torch.Tensor:
    """The expert in float64, from its canonical bytes alone."""
    tensors, start = {}, 0
    for tensor in spec.tensors():
        end = start + spec.tensor_bytes(tensor)
        flat = torch.frombuffer(bytearray(data[start:end]), dtype=spec.torch_dtype)
        tensors[tensor.role] = flat.view(tensor.shape).double()
        start = end
    rows = rows.double()
    match spec.layout:
        case Layout.SEPARATE:
            gate, up = rows @ tensors["gate"].T, rows @ tensors["up"].T
        case Layout.FUSED:
            gate, up = (rows @ tensors["gate_up"].T).split(spec.intermediate, dim=1)
        case Layout.FUSED_TRANSPOSED:
            gate, up = (rows @ tensors["gate_up"]).split(spec.intermediate, dim=1)
        case Layout.INTERLEAVED_BIASED:
            both = rows @ tensors["gate_up"] + tensors["gate_up_bias"]
            gate, up = both[:, ::2], both[:, 1::2]
    match spec.activation:
        case Activation.SWIGLU:
            inner = gate / (1 + torch.exp(-gate)) * up
        case Activation.GEGLU_TANH:
            inner = 0.5 * gate * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3))) * up
        case Activation.CLAMPED_SWIGLU:
            gate = torch.minimum(gate, torch.tensor(spec.limit))
            up = torch.clamp(up, -spec.limit, spec.limit)
            inner = gate / (1 + torch.exp(-spec.alpha * gate)) * (up + 1)
    down = tensors["down"].T if spec.layout in (Layout.SEPARATE, Layout.FUSED) else tensors["down"]
    answer = inner @ down
    return answer + tensors["down_bias"] if "down_bias" in tensors else answer


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-30))


@pytest.mark.parametrize(("layout", "activation"), FORMS)
@pytest.mark.parametrize("dtype", sorted(ROUNDING))
@given(
    hidden=st.integers(1, 48),
    intermediate=st.integers(1, 48),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15, deadline=None)
def test_pre_summed_rows_agree_with_float64(
    layout: Layout, activation: Activation, dtype: str, hidden: int, intermediate: int, rows: int, seed: int
) -> None:
    spec = ExpertSpec(hidden, intermediate, dtype, layout, activation)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, hidden, generator=generator).to(spec.torch_dtype)
    blobs = [random_bytes(spec, seed + index) for index in range(3)]
    members = [torch.arange(rows), torch.arange(0, rows, 2), torch.tensor([], dtype=torch.int64)]
    gates = [torch.rand(len(member), generator=generator) + 0.1 for member in members]
    groups = [
        Group(Expert.load(spec, blob), member, gate)
        for blob, member, gate in zip(blobs, members, gates, strict=True)
    ]
    want = torch.zeros(rows, hidden, dtype=torch.float64)
    scale = torch.zeros(rows, hidden, dtype=torch.float64)
    for blob, member, gate in zip(blobs, members, gates, strict=True):
        part = oracle(spec, blob, x[member]) * gate.double().unsqueeze(1)
        want.index_add_(0, member, part)
        scale.index_add_(0, member, part.abs())
    got = feed_forward(groups, x)
    assert got.dtype == torch.float32
    # A sum that cancels is small against its terms: the error is judged against the terms.
    floor = 1e-2 * want.numel() ** 0.5  # where an activation all but vanishes, float16 has few bits left
    assert float((got.double() - want).norm()) <= ROUNDING[dtype] * (float(scale.norm()) + floor)


@pytest.mark.parametrize(("layout", "activation"), FORMS)
@pytest.mark.parametrize("dtype", sorted(HONEST))
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_an_honest_node_stays_in_the_honest_band(
    layout: Layout, activation: Activation, dtype: str, rows: int
) -> None:
    spec = ExpertSpec(200, 136, dtype, layout, activation)
    data = random_bytes(spec, rows)
    x = torch.randn(rows, 200, generator=torch.Generator().manual_seed(rows)).to(spec.torch_dtype)
    got = feed_forward([Group(Expert.load(spec, data), torch.arange(rows), torch.ones(rows))], x)
    want = oracle(spec, data, x)
    errors = (got.double() - want).norm(dim=1) / want.norm(dim=1)
    assert float(errors.max()) <= HONEST[dtype]


def test_rows_that_nobody_names_are_zero() -> None:
    spec = ExpertSpec(8, 4, "float32", Layout.SEPARATE)
    group = Group(Expert.load(spec, random_bytes(spec, 1)), torch.tensor([1]), torch.ones(1))
    output = feed_forward([group], torch.randn(3, 8))
    assert output[0].abs().sum() == 0 and output[2].abs().sum() == 0 and output[1].abs().sum() > 0


def test_narrow_weights_meet_wide_rows_without_narrowing_them() -> None:
    spec = ExpertSpec(16, 8, "bfloat16", Layout.SEPARATE)
    data = random_bytes(spec, 3)
    rows = torch.randn(4, 16)
    output = feed_forward([Group(Expert.load(spec, data), torch.arange(4), torch.ones(4))], rows)
    assert relative_error(output, oracle(spec, data, rows)) < 1e-6


def test_views_share_memory_and_leave_read_only_bytes_alone() -> None:
    spec = ExpertSpec(4, 4, "float32", Layout.SEPARATE)
    data = bytearray(random_bytes(spec, 5))
    expert = Expert.load(spec, data)
    data[:4] = b"\0\0\0\0"
    assert expert.weights["gate"][0, 0] == 0
    assert Expert.load(spec, bytes(data)).weights["down"].shape == (4, 4)


@pytest.mark.parametrize("change", [-1, 1, -16])
def test_bytes_that_do_not_fit_are_refused(change: int) -> None:
    spec = ExpertSpec(4, 4, "float32", Layout.SEPARATE)
    data = random_bytes(spec, 5) + b"\0" * 4
    with pytest.raises(ExpertBytesError, match="canonical bytes"):
        Expert.load(spec, data[: spec.expert_bytes + change])
