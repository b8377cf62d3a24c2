"""What placement is told of speeds: nothing between looks, nothing that differs little from the usual, and no noise."""

from __future__ import annotations

from folkmoot.coordinator.hub.outlook import Measured, Outlook
from folkmoot.ids import NodeId

ONE, TWO, THREE, FOUR = (NodeId(f"{index:064x}") for index in range(4))


def measured(*speeds: float, memories: tuple[int, ...] = (100, 100, 100, 100)) -> dict[NodeId, Measured]:
    nodes = (ONE, TWO, THREE, FOUR)
    return {
        node: Measured(memory, 1 / speed if speed else 0.0, 0.01)
        for node, speed, memory in zip(nodes, speeds, memories, strict=False)
    }


def test_speeds_that_are_alike_are_not_told() -> None:
    outlook = Outlook(None)
    outlook.look(measured(10, 12, 9, 11))
    assert [outlook.bytes_per_second(node) for node in (ONE, TWO, THREE, FOUR)] == [None] * 4
    assert outlook.round_trip_s(ONE) == 0.01


def test_a_node_that_is_slow_or_small_for_its_speed_is_told() -> None:
    outlook = Outlook(None)
    outlook.look(measured(10, 10, 2, 10, memories=(100, 100, 100, 20)))
    assert outlook.bytes_per_second(ONE) is None
    assert outlook.bytes_per_second(THREE) == 2
    assert outlook.bytes_per_second(FOUR) == 10


def test_a_speed_that_was_taken_in_stays_until_it_has_changed_much() -> None:
    outlook = Outlook(None)
    outlook.look(measured(10, 10, 2, 10))
    outlook.look(measured(10, 10, 2.8, 10))
    assert outlook.bytes_per_second(THREE) == 2
    outlook.look(measured(10, 10, 4, 10))
    assert outlook.bytes_per_second(THREE) == 4


def test_nodes_that_were_not_measured_or_are_gone_have_no_speed() -> None:
    outlook = Outlook(None)
    outlook.look({})
    assert outlook.bytes_per_second(ONE) is None
    outlook.look(measured(10, 10, 2, 0))
    assert outlook.bytes_per_second(FOUR) is None
    outlook.look(measured(10, 10))
    assert outlook.bytes_per_second(THREE) is None
