"""Accounts: owners' nodes are added up exactly and nothing is lost or counted twice; what is public names no owner against its will; a
table is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from folkmoot.coordinator.books.accounts import accounts, as_csv, leaderboard
from folkmoot.coordinator.books.contributors import KnownNode
from folkmoot.coordinator.books.credit import Credit
from folkmoot.ids import NodeId


def node(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def known(number: int, name: str, owner: str | None) -> tuple[NodeId, KnownNode]:
    return node(number), KnownNode(node(number), name, owner, "0.1", 1, 1)


KNOWN = dict(
    [
        known(1, "oak", "Ada"),
        known(2, "elm", "Ada"),
        known(3, "=cmd()", None),
        known(4, "new", None),
        known(5, "ash", "Bob"),
    ]
)
OWED = {
    node(1): Credit(1, 2, 10**30),
    node(2): Credit(3, 4, 5),
    node(3): Credit(7, 7, 7),
    node(9): Credit(1, 1, 1),
}
OWNERS = {"Ada": "", "Bob": "the baker", "Eve": ""}


def test_all_nodes_of_one_owner_are_one_contributor() -> None:
    found = accounts(OWED, KNOWN, OWNERS)
    assert [(one.contributor, len(one.nodes), one.credit) for one in found] == [
        ("Ada", 2, Credit(4, 6, 10**30 + 5)),
        (node(3), 1, Credit(7, 7, 7)),
        (node(9), 1, Credit(1, 1, 1)),
        ("Bob", 1, Credit()),
    ]


def test_the_leaderboard_names_no_owner_against_its_will() -> None:
    document = leaderboard(accounts(OWED, KNOWN, OWNERS))
    said = json.dumps(document)
    assert "Ada" not in said
    assert "Bob" not in said
    names = [one["name"] for one in document["contributors"]]
    assert names[0].startswith("contributor ")
    assert names[1:] == ["=cmd()", f"node {node(9)[:12]}", "the baker"]
    assert [one["rank"] for one in document["contributors"]] == [1, 2, 3, 4]
    assert document["contributors"][0]["row_bytes"] == 10**30 + 5
    assert len(leaderboard(accounts(OWED, KNOWN, OWNERS), 2)["contributors"]) == 2


def test_a_table_has_all_of_it_exactly_and_no_formulas() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(accounts(OWED, KNOWN, OWNERS)))))
    assert rows[0]["row_bytes"] == str(10**30 + 5)
    assert rows[0]["nodes"].split() == [node(1), node(2)]
    assert rows[1]["public_name"] == "'=cmd()"


@given(
    st.dictionaries(st.integers(0, 20), st.integers(0, 1 << 70)),
    st.dictionaries(st.integers(0, 20), st.sampled_from([None, "Ada", "Bob"])),
)
def test_nothing_is_lost_or_counted_twice(work: dict[int, int], owners: dict[int, str | None]) -> None:
    owed = {node(number): Credit(1, 1, amount) for number, amount in work.items()}
    people = dict(known(number, "n", owner) for number, owner in owners.items())
    found = accounts(owed, people, {"Ada": "", "Bob": ""})
    assert sum(one.credit.row_bytes for one in found) == sum(work.values())
    listed = [one for account in found for one in account.nodes]
    assert len(listed) == len(set(listed))
    assert set(owed) <= set(listed)
    sums = [one.credit.row_bytes for one in found]
    assert sums == sorted(sums, reverse=True)
