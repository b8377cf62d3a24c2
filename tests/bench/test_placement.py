"""The placement benchmark: its rows are what they are said to be, its comparison is fair, and planning beats chance in small as well."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from folkmoot.bench import placement
from folkmoot.bench.routed_rows import RoutedRows
from folkmoot.coordinator.placement.place import place
from folkmoot.ids import ExpertKey


def test_what_is_measured_beats_chance(capsys: pytest.CaptureFixture[str]) -> None:
    report = placement.measure(placement.QUICK)
    assert set(vars(report)) == {
        "plan_s",
        "replan_s",
        "nodes_per_row",
        "nodes_per_row_random",
        "max_over_mean_load",
    }
    assert 1 <= report.nodes_per_row <= 0.75 * report.nodes_per_row_random
    assert report.max_over_mean_load >= 1
    placement.show(report)
    assert "goal" in capsys.readouterr().out


def test_rows_are_of_a_seed_popular_and_in_company() -> None:
    router = RoutedRows(2, 256, 8, seed=3)
    rows = router.rows(4000, 1)
    assert all(np.array_equal(one, other) for one, other in zip(rows, router.rows(4000, 1), strict=True))
    assert not np.array_equal(rows[0], router.rows(4000, 2)[0])
    for layer in rows:
        assert layer.shape == (4000, 8)
        assert all(len(set(row)) == 8 for row in layer[:200].tolist())
        used = np.zeros((4000, 256))
        np.put_along_axis(used, layer, 1.0, axis=1)
        popularity = used.mean(0)
        assert popularity.max() > 4 * np.median(popularity), "few experts have much of the work"
        expected = np.outer(popularity, popularity) * 4000
        together = used.T @ used
        lift = (together / np.maximum(expected, 1e-9))[np.triu_indices(256, 1)][
            expected[np.triu_indices(256, 1)] > 5
        ]
        assert (lift > 2).mean() > 0.02, "some pairs fire together far more often than by chance"


def test_the_random_placement_has_as_many_copies_and_as_much_on_each_node() -> None:
    extent = placement.QUICK
    sizes = {ExpertKey(layer, e): extent.expert_bytes for layer in range(8) for e in range(extent.experts)}
    nodes = placement._nodes(extent)
    target = place(nodes, sizes)
    by_chance = placement._random(nodes, target, sizes, 1)
    assert all(len(by_chance[node]) <= len(keys) for node, keys in target.items())
    copies = Counter(key for keys in by_chance.values() for key in keys)
    assert set(copies) == set(sizes)
    assert sum(copies.values()) >= 0.99 * sum(len(keys) for keys in target.values())
