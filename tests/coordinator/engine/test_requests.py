"""Parameters and settings that cannot be honoured are refused with the name of the one at fault."""

from __future__ import annotations

import math
from typing import Any

import pytest

from folkmoot.coordinator.engine.requests import ParameterError, SamplingParams
from folkmoot.coordinator.engine.settings import EngineSettings, EngineSettingsError
from folkmoot.errors import UsageError


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", ("x" * 1025,)),
        ("stop", ("x",) * 17),
        ("logprobs", -1),
        ("logprobs", 21),
    ],
)
def test_a_parameter_out_of_range_is_named(param: str, value: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        SamplingParams(**{param: value})
    assert caught.value.param == param
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_memory_bytes", 0),
        ("page_tokens", 0),
        ("max_step_tokens", 0),
        ("prefill_chunk_tokens", 0),
        ("max_running", 0),
        ("max_waiting", 0),
        ("lanes", 0),
        ("max_draft_tokens", -1),
        ("draft_step_tokens", 0),
        ("not_covered_wait_s", -1.0),
        ("not_covered_wait_s", math.nan),
        ("retry_after_s", 0.0),
        ("max_running", 512),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: Any) -> None:
    with pytest.raises(EngineSettingsError, match=name) as caught:
        EngineSettings(**{name: value})
    assert caught.value.advice
