"""What the tests of sources share: tiny experts, published."""

from __future__ import annotations

import pytest

from folkmoot.tests.support.bare_experts import BareExperts
from folkmoot.tests.support.published_experts import published


@pytest.fixture(scope="session")
def experts() -> BareExperts:
    """Eight experts of 6 KiB, in one file, end to end."""
    return published(BareExperts.make())
