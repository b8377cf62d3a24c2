"""An expert's spec says how many canonical bytes it has, in every layout and format, and refuses what cannot be."""

import pytest

from folkmoot.kernels.formats import Activation, ExpertSpec, Layout, WeightFormat


@pytest.mark.parametrize(
    ("layout", "elements"),
    [
        (Layout.SEPARATE, 3 * 4 * 8),
        (Layout.FUSED, 3 * 4 * 8),
        (Layout.FUSED_TRANSPOSED, 3 * 4 * 8),
        (Layout.INTERLEAVED_BIASED, 3 * 4 * 8 + 2 * 8 + 4),
        (Layout.INTERLEAVED_ROWS_BIASED, 3 * 4 * 8 + 2 * 8 + 4),
    ],
)
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_expert_bytes_counts_every_tensor(layout: Layout, elements: int, dtype: str, itemsize: int) -> None:
    assert ExpertSpec(4, 8, dtype, layout).expert_bytes == elements * itemsize


@pytest.mark.parametrize(
    ("form", "size"),
    [
        (WeightFormat.INT8, 3 * (64 * 160 + 2 * 2 * 160)),
        (WeightFormat.INT8_CHANNEL, 3 * 64 * 160 + 4 * (160 + 160 + 64)),
        (WeightFormat.INT4, 3 * (32 * 160 + 4 * 2 * 160)),
        (WeightFormat.FP8_BLOCK, 3 * (64 * 160 + 4 * 2)),
        (WeightFormat.MXFP4, 3 * (32 * 160 + 2 * 160)),
    ],
)
def test_expert_bytes_counts_scales(form: WeightFormat, size: int) -> None:
    assert ExpertSpec(64, 160, form, Layout.SEPARATE).expert_bytes == size


def test_the_published_order_of_gpt_oss() -> None:
    spec = ExpertSpec(64, 96, "mxfp4", Layout.INTERLEAVED_ROWS_BIASED, Activation.CLAMPED_SWIGLU)
    assert [(tensor.role, tensor.shape) for tensor in spec.tensors()] == [
        ("gate_up", (192, 2, 16)),
        ("gate_up_scales", (192, 2)),
        ("gate_up_bias", (192,)),
        ("down", (64, 3, 16)),
        ("down_scales", (64, 3)),
        ("down_bias", (64,)),
    ]


@pytest.mark.parametrize(
    ("hidden", "intermediate", "dtype", "layout", "activation"),
    [
        (0, 8, "float32", Layout.SEPARATE, Activation.SWIGLU),
        (4, -1, "float32", Layout.SEPARATE, Activation.SWIGLU),
        (4, 8, "int3", Layout.SEPARATE, Activation.SWIGLU),
        (32, 40, "int8", Layout.SEPARATE, Activation.SWIGLU),
        (40, 32, "int4", Layout.SEPARATE, Activation.SWIGLU),
        (32, 48, "mxfp4", Layout.SEPARATE, Activation.SWIGLU),
        (32, 32, "int8", Layout.FUSED_TRANSPOSED, Activation.SWIGLU),
        (32, 32, "int8_channel", Layout.INTERLEAVED_BIASED, Activation.CLAMPED_SWIGLU),
        (32, 32, "fp8_block", Layout.FUSED, Activation.SWIGLU),
        (32, 32, "float32", Layout.UNGATED, Activation.SWIGLU),
        (32, 32, "float32", Layout.SEPARATE, Activation.RELU_SQUARED),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(
    hidden: int, intermediate: int, dtype: str, layout: Layout, activation: Activation
) -> None:
    with pytest.raises(ValueError, match="cannot be|no such weight type|needs|does not go with"):
        ExpertSpec(hidden, intermediate, dtype, layout, activation)
