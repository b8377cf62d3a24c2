"""The weight format that an operator asks for.

Guarantees: what is asked for is one that can be made here, and fits the sizes of the experts, before anything is written.
"""

from __future__ import annotations

from ...errors import UsageError
from ...kernels.convert import converted_spec
from ...kernels.formats import DTYPES, GROUP, ExpertSpec, WeightFormat
from ...kernels.quantize import MADE_HERE

SHORT = {
    "bf16": WeightFormat.BFLOAT16,
    "fp16": WeightFormat.FLOAT16,
    "f16": WeightFormat.FLOAT16,
    "fp32": WeightFormat.FLOAT32,
    "f32": WeightFormat.FLOAT32,
}
"""What formats are called elsewhere."""

CHOICES = (*DTYPES, *MADE_HERE)
"""The formats that can be asked for."""


class FormatError(UsageError):
    """A weight format cannot be made, or does not fit the model."""


def chosen_format(name: str | None) -> WeightFormat | None:
    """The format of a name, or of its short form; None stays None.

    Raises:
        FormatError: there is no such format, or it is only read as published.
    """
    if name is None:
        return None
    name = SHORT.get(name, name)
    if name not in CHOICES:
        raise FormatError(
            f"weights cannot be stored in {name!r}",
            advice=f"choose one of {', '.join(CHOICES)} with --format",
        )
    return WeightFormat(name)


def spec_in(spec: ExpertSpec, form: WeightFormat) -> ExpertSpec:
    """The form of experts once they are stored in another format.

    Raises:
        FormatError: the experts' sizes do not fit.
    """
    try:
        return converted_spec(spec, form)
    except ValueError as error:
        raise FormatError(
            f"{form} has groups of {GROUP} weights, which do not divide experts of {spec.hidden} x {spec.intermediate}",
            advice=f"choose {WeightFormat.INT8_CHANNEL} with --format, which takes any size",
        ) from error


def read_dtype(form: str) -> str:
    """The float type in which weights are read that are to be stored in a format: rounded once, or not at all."""
    return "float32" if WeightFormat(form).quantized else form
