"""Engines over tiny models, closed when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from folkmoot.tests.support.engine_bench import EngineBench
from folkmoot.tests.support.prepared_models import TinyModels

BenchOf = Callable[[str], EngineBench]


@pytest.fixture(scope="session")
def _benches(tmp_path_factory: pytest.TempPathFactory) -> BenchOf:
    models = TinyModels(tmp_path_factory.mktemp("engine-models"))
    made: dict[str, EngineBench] = {}

    def bench_of(family: str) -> EngineBench:
        if family not in made:
            made[family] = EngineBench(models.get(family))
        return made[family]

    return bench_of


@pytest.fixture
def bench_of(_benches: BenchOf) -> Iterator[BenchOf]:
    """The bench of a family."""
    used: list[EngineBench] = []

    def bench_of(family: str) -> EngineBench:
        used.append(_benches(family))
        return used[-1]

    yield bench_of
    for bench in used:
        bench.close()


@pytest.fixture
def bench(bench_of: BenchOf) -> EngineBench:
    """A model with routed experts and grouped-query attention."""
    return bench_of("mixtral")
