"""An expert's spec says how many canonical bytes it has, in every layout."""

import pytest

from folkmoot.kernels.formats import ExpertSpec, Layout


@pytest.mark.parametrize(
    ("layout", "elements"),
    [
        (Layout.SEPARATE, 3 * 4 * 8),
        (Layout.FUSED, 3 * 4 * 8),
        (Layout.FUSED_TRANSPOSED, 3 * 4 * 8),
        (Layout.INTERLEAVED_BIASED, 3 * 4 * 8 + 2 * 8 + 4),
    ],
)
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_expert_bytes_counts_every_tensor(layout: Layout, elements: int, dtype: str, itemsize: int) -> None:
    assert ExpertSpec(4, 8, dtype, layout).expert_bytes == elements * itemsize


@pytest.mark.parametrize(
    ("hidden", "intermediate", "dtype"), [(0, 8, "float32"), (4, -1, "float32"), (4, 8, "int3")]
)
def test_a_spec_that_makes_no_sense_is_refused(hidden: int, intermediate: int, dtype: str) -> None:
    with pytest.raises(ValueError, match="cannot be|no such weight type"):
        ExpertSpec(hidden, intermediate, dtype, Layout.SEPARATE)
