"""Tiny models that the network's tests share."""

from __future__ import annotations

import pytest

from folkmoot.tests.support.prepared_models import TinyModels


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return TinyModels(tmp_path_factory.mktemp("network-models"))
