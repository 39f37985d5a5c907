"""Several `cluster` constraints of one app: its instances share the values of all of them, where most of them fit."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity, Placing
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.test_columns import offer
from tests.unit.coordinator.world import spec

ATTRIBUTES = ("rack", "zone")
CLUSTERS = [{"attribute": attribute, "operator": "cluster"} for attribute in ATTRIBUTES]


def wanted(instances: int, constraints: list[dict[str, str]]) -> AppSpec:
    return spec(instances=instances, ports=[], checks=[], resources={"cpu": 0.1, "memory": 0}, placement={"constraints": constraints})


def ground_of(nodes: list[Capacity], same_app: dict[str, int]) -> Ground:
    fleet = Fleet(Reservations(), large=0)
    for item in nodes:
        fleet.put(item)
    return Ground(fleet, same_app)


def both(asked: AppSpec, count: int, nodes: list[Capacity], same_app: dict[str, int] | None = None) -> Placing:
    """Place by columns and node by node, which has to be the same."""
    ground = ground_of(nodes, same_app or {})
    found = place(asked, count, ground)
    assert found == place(asked, count, tuple(ground))
    return found


def test_two_clusters_settle_on_values_that_are_found_together() -> None:
    nodes = [offer(number, rack, "y") for number, rack in enumerate("bbcc", 3)]
    nodes += [offer(1, "a", "x", tenths=15), offer(2, "a", "x", tenths=15)]  # the roomiest rack is not in the roomiest zone
    found = both(wanted(40, CLUSTERS), 40, nodes)
    assert {choice.node for choice in found.choices} == {"n1", "n2"}
    assert len(found.choices) == 30


def test_a_cluster_goes_where_most_fit_by_the_other_limits_too() -> None:
    nodes = [offer(1, "a", "x", tenths=100), offer(2, "b", "x"), offer(3, "b", "x"), offer(4, "b", "x")]
    apart = [{"attribute": "rack", "operator": "cluster"}, {"attribute": "node.name", "operator": "unique"}]
    assert {choice.node for choice in both(wanted(3, apart), 3, nodes).choices} == {"n2", "n3", "n4"}


GROUPED = [{"attribute": "zone", "operator": "cluster"}, {"attribute": "rack", "operator": "group-by"}]


def test_a_cluster_goes_where_most_fit_in_groups_of_about_equal_size() -> None:
    lopsided = [offer(1, "a", "x", tenths=100), offer(2, "b", "x", tenths=1)]
    even = [offer(3, "c", "y", tenths=4), offer(4, "d", "y", tenths=4)]
    found = both(wanted(8, GROUPED), 8, [*lopsided, *even])
    assert sorted(choice.node for choice in found.choices) == ["n3"] * 4 + ["n4"] * 4, "of the roomier zone three could be used"


def test_groups_out_of_reach_keep_nobody_back() -> None:
    nodes = [offer(1, "a", "x", tenths=20), offer(2, "b", "x", tenths=20), offer(3, "c", "y")]
    for same_app in ({}, {"n1": 1}, {"n1": 2, "n2": 1}):
        there = sum(same_app.values())
        found = both(wanted(9, GROUPED), 9 - there, nodes, same_app)
        numbers = Counter(choice.node for choice in found.choices) + Counter(same_app)
        assert sorted(numbers.values()) == [4, 5], "all of the zone, and evenly"
    found = both(wanted(9, [*GROUPED[:1], {**GROUPED[1], "value": "3"}]), 9, nodes)
    assert len(found.choices) == 2, "where there have to be more groups than there are, each gets one"
    assert "which has 1 already, another one only 0" in found.reason


def test_what_is_open_yet_is_settled_within_what_is_not() -> None:
    nodes = [offer(1, "", "x"), offer(2, "a", "y", tenths=90), offer(3, "b", "x")]
    assert [choice.node for choice in both(wanted(3, CLUSTERS), 2, nodes, {"n1": 1}).choices] == ["n3", "n3"]


def test_where_nothing_is_in_reach_of_all_the_reason_names_the_others() -> None:
    nodes = [offer(1, "", "x"), offer(2, "a", "y")]
    placing = both(wanted(3, CLUSTERS), 2, nodes, {"n1": 1})
    assert not placing.choices
    assert "n2 is in zone y, the others are in x" in placing.reason


_NODES = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "x", "y"]), st.integers(0, 8)), min_size=1, max_size=9
)
_OTHERS: Any = st.one_of(
    st.just([]),
    st.builds(
        lambda attribute, most: [{"attribute": attribute, "operator": "max-per", "value": str(most)}],
        st.sampled_from([*ATTRIBUTES, "node.name"]),
        st.integers(1, 4),
    ),
    st.just([{"attribute": "rack", "operator": "!=", "value": "a"}]),
    st.builds(
        lambda attribute, least: [{"attribute": attribute, "operator": "group-by", "value": str(least) if least else ""}],
        st.sampled_from([*ATTRIBUTES, "node.name"]),
        st.integers(0, 4),
    ),
)


@settings(max_examples=300, deadline=None)
@given(_NODES, _OTHERS, st.integers(1, 20), st.tuples(st.integers(0, 8), st.integers(0, 2)))
@pytest.mark.parametrize("attributes", [ATTRIBUTES, ATTRIBUTES[:1], ATTRIBUTES[::-1]])
def test_as_many_are_placed_as_where_most_would_be(
    attributes: tuple[str, ...],
    drawn: list[tuple[str, str, int]],
    others: list[dict[str, str]],
    count: int,
    here: tuple[int, int],
) -> None:
    nodes = [offer(number, rack, zone, tenths=tenths) for number, (rack, zone, tenths) in enumerate(drawn)]
    first, there = nodes[here[0] % len(nodes)], here[1]
    same_app = {first.id: there} if there else {}
    clusters = [{"attribute": attribute, "operator": "cluster"} for attribute in attributes]
    found = both(wanted(count + there, [*clusters, *others]), count, nodes, same_app)

    def values(attribute: str) -> set[str]:
        if there and attribute in first.attributes:
            return {first.attributes[attribute]}
        return {value for node in nodes if (value := node.attributes.get(attribute))}

    by_id = {node.id: node for node in nodes}
    for attribute in attributes:
        assert len({by_id[choice.node].attributes[attribute] for choice in found.choices}) <= 1
        assert {by_id[choice.node].attributes[attribute] for choice in found.choices} <= values(attribute)
    combinations = product(*(sorted(values(attribute)) for attribute in attributes))
    placed = [
        len(both(_at(attributes, combination, count + there, others), count, nodes, same_app).choices) for combination in combinations
    ]
    assert len(found.choices) == max(placed, default=0)


def _at(attributes: tuple[str, ...], values: tuple[str, ...], instances: int, others: list[dict[str, str]]) -> AppSpec:
    """Return the description with the values named, instead of asked to be equal."""
    named = [{"attribute": attribute, "value": value} for attribute, value in zip(attributes, values, strict=True)]
    return wanted(instances, [*named, *others])
