"""Tiny prepared models, made once for the tests of this folder."""

from __future__ import annotations

import pytest

from folkmoot.tests.support.prepared_models import TinyModels


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Makes each model when it is first asked for."""
    return TinyModels(tmp_path_factory.mktemp("models"))
