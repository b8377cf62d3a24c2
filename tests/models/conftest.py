"""Tiny models that the tests of this room share."""

from __future__ import annotations

import pytest

from folkmoot.tests.support.prepared_models import TinyModels


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("tiny-models"))
