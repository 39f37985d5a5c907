"""Constraints, affinities, spreads and strategies: who is chosen, who never is, and why; and that the choice is that of the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.scheduler.attributes import holds
from gestalt.coordinator.scheduler.place import place, points_of
from gestalt.coordinator.scheduler.score import boost, total
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.spec.conditions import DISTRIBUTING
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.world import node, spec


def at(name: str, rack: str = "", **fields: object) -> Capacity:
    """Return a node; `rack` is a label of it."""
    labels = {"rack": rack} if rack else {}
    more: Any = fields.pop("attributes", {})
    return node(name, attributes={"node.name": name, **labels, **more}, **fields)


def wanted(instances: int, **placement: object) -> AppSpec:
    return spec(instances=instances, ports=[], checks=[], placement=placement)


def racks(chosen: AppSpec, nodes: Iterable[Capacity], count: int | None = None) -> Counter[str]:
    """Place and return how many instances each rack has."""
    nodes = tuple(nodes)
    where = {item.id: item.attributes.get("rack", "") for item in nodes}
    return Counter(where[choice.node] for choice in place(chosen, chosen.instances if count is None else count, nodes).choices)


RACKS = (at("a1", "a"), at("a2", "a"), at("a3", "a"), at("b1", "b"), at("c1", "c"))


def test_constraints_rule_out() -> None:
    only = wanted(4, constraints=[{"attribute": "rack", "operator": "!=", "value": "a"}])
    assert racks(only, RACKS) == {"b": 2, "c": 2}


def test_affinities_weigh_more_than_load_and_less_than_nothing_at_all() -> None:
    liked = wanted(3, affinities=[{"attribute": "rack", "value": "b", "weight": 100}])
    assert racks(liked, RACKS) == {"b": 1, "a": 2} or racks(liked, RACKS)["b"] >= 2
    avoided = wanted(4, affinities=[{"attribute": "rack", "value": "a", "weight": -100}])
    assert racks(avoided, RACKS)["a"] == 0
    assert racks(avoided, RACKS[:3]) == {"a": 4}, "where there is nothing else it is taken"


def test_instances_spread_over_racks_before_nodes() -> None:
    assert racks(wanted(6, spread=[{"attribute": "rack"}]), RACKS) == {"a": 2, "b": 2, "c": 2}
    assert racks(wanted(5), RACKS) == {"a": 3, "b": 1, "c": 1}


def test_a_spread_has_targets() -> None:
    shares = wanted(10, spread=[{"attribute": "rack", "targets": {"a": 70, "b": 30}}])
    assert racks(shares, RACKS) == {"a": 7, "b": 3}
    rest = wanted(10, spread=[{"attribute": "rack", "targets": {"a": 60}}])
    assert racks(rest, RACKS) == {"a": 6, "b": 2, "c": 2}, "what is not named shares the rest"


def test_spreads_over_two_attributes_hold_together() -> None:
    nodes = [at(f"{rack}{zone}", rack, attributes={"zone": zone}) for rack in "ab" for zone in "xyz"]
    choices = place(wanted(6, spread=[{"attribute": "rack"}, {"attribute": "zone"}]), 6, tuple(nodes)).choices
    assert len({choice.node for choice in choices}) == 6


def test_packing_fills_one_node_after_the_other() -> None:
    nodes = tuple(at(name, cpu=1.0) for name in "abc")
    choices = place(spec(instances=15, ports=[], checks=[], placement={"strategy": "binpack"}), 15, nodes).choices
    assert Counter(choice.node for choice in choices) == {"a": 10, "b": 5}
    half = place(
        spec(instances=1, ports=[], checks=[], placement={"strategy": "binpack"}), 1, (nodes[0], at("used", cpu=1.0, cpu_reserved=0.5))
    )
    assert half.choices[0].node == "used"


def test_small_apps_stay_apart_whatever_the_load() -> None:
    nodes = (at("busy", cpu=10.0, cpu_reserved=9.5, memory=1000, memory_reserved=990), at("idle", cpu=10.0, memory=1000))
    assert {choice.node for choice in place(wanted(2), 2, nodes).choices} == {"busy", "idle"}


@pytest.mark.parametrize(
    ("constraint", "expected", "missing", "reason"),
    [
        (
            {"operator": "unique"},
            {"a": 1, "b": 1, "c": 1},
            3,
            "5 nodes: ruled out by unique rack (a1 is in rack a, which has 1 of at most 1)",
        ),
        ({"operator": "max-per", "value": "2"}, {"a": 2, "b": 2, "c": 2}, 0, ""),
        ({"operator": "group-by"}, {"a": 2, "b": 2, "c": 2}, 0, ""),
        ({"operator": "group-by", "value": "4"}, {"a": 1, "b": 1, "c": 1}, 3, "has 1 already, another one only 0"),
        ({"operator": "cluster"}, {"a": 6}, 0, ""),
    ],
)
def test_instances_are_distributed(constraint: dict[str, str], expected: dict[str, int], missing: int, reason: str) -> None:
    asked = wanted(6, constraints=[{"attribute": "rack", **constraint}])
    assert racks(asked, RACKS) == expected
    placing = place(asked, 6, RACKS)
    assert placing.missing == missing
    assert reason in placing.reason


def test_what_is_there_counts() -> None:
    there = (at("a1", "a", same_app=2), at("b1", "b"), at("c1", "c"))
    assert racks(wanted(4, spread=[{"attribute": "rack"}]), there, 2) == {"b": 1, "c": 1}
    assert racks(wanted(4, constraints=[{"attribute": "rack", "operator": "cluster"}]), there, 2) == {"a": 2}
    assert racks(wanted(4, constraints=[{"attribute": "rack", "operator": "unique"}]), there, 3) == {"b": 1, "c": 1}


def test_a_cluster_goes_where_all_of_it_fits() -> None:
    nodes = (at("a1", "a", cpu=0.25), at("a2", "a", cpu=0.1), at("b1", "b", cpu=0.45), at("c1", "c", cpu=0.1))
    together = wanted(4, constraints=[{"attribute": "rack", "operator": "cluster"}])
    assert racks(together, nodes) == {"b": 4}


def test_a_node_without_the_attribute_is_in_no_group() -> None:
    placing = place(wanted(2, constraints=[{"attribute": "rack", "operator": "unique"}]), 2, (at("a1", "a"), at("n1"), at("n2")))
    assert [choice.node for choice in placing.choices] == ["a1"]
    assert "has no rack" in placing.reason


def test_pools_keep_to_themselves() -> None:
    nodes = (at("g1", attributes={"pool": "gpu"}), at("n1"), at("n2", attributes={"pool": "default"}))
    assert {choice.node for choice in place(wanted(4), 4, nodes).choices} == {"n1", "n2"}
    assert {choice.node for choice in place(wanted(2, pool="gpu"), 2, nodes).choices} == {"g1"}
    nowhere = place(wanted(1, pool="ssd"), 1, nodes)
    assert nowhere.reason == "3 nodes: not in pool ssd (g1 is in pool gpu, not ssd)"


def test_the_reasons_count_nodes_and_name_the_nearest() -> None:
    asked = spec(
        instances=1,
        ports=[],
        checks=[],
        resources={"cpu": 4, "memory": "8GiB"},
        placement={"constraints": [{"attribute": "rack", "value": "a"}, {"attribute": "disk", "value": "ssd"}]},
    )
    ssd = {"disk": "ssd"}
    nodes = (
        at("n1", "a", cpu=8, cpu_reserved=7, attributes=ssd),
        at("n2", "a", cpu=8, cpu_reserved=4.5, attributes=ssd),
        at("n3", "a", memory=16 * 1024**3, memory_reserved=10 * 1024**3, attributes=ssd),
        at("n4", "a"),
        at("n5", "b", attributes=ssd),
        at("n6", "b"),
        at("n7", "a", ready=False, why_not="is cordoned"),
    )
    placing = place(asked, 1, nodes)
    assert [(item.nodes, item.kind, item.nearest) for item in placing.refusals] == [
        (2, "too few cores left", "n2"),
        (2, "not rack = a", "n5"),
        (1, "too little memory left", "n3"),
        (1, "not disk = ssd", "n4"),
        (1, "is cordoned", "n7"),
    ]
    assert placing.reason == (
        "2 nodes: too few cores left (n2 has 3.5 of 8 cores left, 4 are asked for), resources.cpu of at most 3.5 would fit; "
        "2 nodes: not rack = a (n5 has rack b, not rack = a); "
        "1 node: too little memory left (n3 has 6GiB of memory left, 8GiB are asked for), resources.memory of at most 6GiB would fit; "
        "1 node: not disk = ssd (n4 has no disk, disk = ssd is asked for); "
        "1 node: is cordoned"
    )


def oracle(asked: AppSpec, count: int, nodes: tuple[Capacity, ...]) -> list[str]:
    """Place as the documentation says, with nothing remembered from one instance to the next: slow, and short enough to be believed."""
    current, chosen = list(nodes), list[str]()
    able = [item for item in nodes if item.ready and all(holds(condition, item.attributes) for condition in asked.placement.constraints)]
    while len(chosen) < count:
        fitting = [item for item in current if _allowed(asked, item, current, able)]
        if not fitting:
            break
        best = min(fitting, key=lambda item: (-_points(asked, item, current, able), item.name))
        chosen.append(best.id)
        grown = replace(best, same_app=best.same_app + 1, cpu_reserved=best.cpu_reserved + asked.resources.cpu)
        current[current.index(best)] = grown
    return chosen


def _used(attribute: str, current: list[Capacity]) -> Counter[str]:
    used: Counter[str] = Counter()
    for item in current:
        if attribute in item.attributes:
            used[item.attributes[attribute]] += item.same_app
    return used


def _values(attribute: str, able: list[Capacity]) -> set[str]:
    return {item.attributes[attribute] for item in able if attribute in item.attributes}


def _allowed(asked: AppSpec, item: Capacity, current: list[Capacity], able: list[Capacity]) -> bool:
    if item.id not in {each.id for each in able} or item.cpu - item.cpu_reserved + 1e-9 < asked.resources.cpu:
        return False
    for limit in asked.placement.constraints:
        used, value = _used(limit.attribute, current), item.attributes.get(limit.attribute, "")
        if limit.operator in DISTRIBUTING and not value:
            return False
        if limit.operator in ("unique", "max-per") and used[value] >= int(limit.value or 1):
            return False
        if limit.operator == "group-by" and used[value] > min(used[other] for other in _values(limit.attribute, able)):
            return False
    return True


def _points(asked: AppSpec, item: Capacity, current: list[Capacity], able: list[Capacity]) -> float:
    spread = []
    for each in asked.placement.spread:
        value = item.attributes.get(each.attribute, "")
        rest = _values(each.attribute, able) - each.targets.keys()
        share = each.targets.get(value, (100 - sum(each.targets.values())) / len(rest) if value in rest else 0)
        spread.append(each.weight * 0.1 * boost(share * asked.instances / 100, _used(each.attribute, current)[value]))
    return total(points_of(asked, item), *spread)


_ATTRIBUTE = st.sampled_from(["rack", "zone"])
_NODES = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "x", "y"]), st.integers(1, 20), st.integers(0, 3), st.booleans()),
    min_size=1,
    max_size=8,
)
_SPREAD = st.fixed_dictionaries(
    {"attribute": _ATTRIBUTE, "weight": st.integers(1, 100)},
    optional={"targets": st.fixed_dictionaries({}, optional={"a": st.integers(0, 50), "x": st.integers(0, 50)})},
)
_LIMIT = st.one_of(
    st.fixed_dictionaries({"attribute": _ATTRIBUTE, "operator": st.sampled_from(["max-per"]), "value": st.sampled_from(["1", "2", "3"])}),
    st.fixed_dictionaries({"attribute": _ATTRIBUTE, "operator": st.just("group-by")}),
    st.fixed_dictionaries({"attribute": _ATTRIBUTE, "operator": st.sampled_from(["=", "!="]), "value": st.sampled_from(["a", "x"])}),
)
_LIKED = st.fixed_dictionaries({"attribute": _ATTRIBUTE, "value": st.sampled_from(["a", "x"]), "weight": st.integers(-100, 100)})
_ASKED = st.fixed_dictionaries(
    {
        "spread": st.lists(_SPREAD, max_size=2, unique_by=lambda item: item["attribute"]),
        "constraints": st.lists(_LIMIT, max_size=2),
        "affinities": st.lists(_LIKED, max_size=2),
        "strategy": st.sampled_from(["spread", "binpack"]),
    }
)


@settings(max_examples=300)
@given(_NODES, _ASKED, st.integers(1, 12))
def test_the_choice_is_that_of_the_oracle(drawn: list[tuple[str, str, int, int, bool]], placement: dict[str, Any], count: int) -> None:
    nodes = tuple(
        at(f"n{index}", rack, cpu=tenths / 10, same_app=there, ready=ready, attributes={"zone": zone} if zone else {})
        for index, (rack, zone, tenths, there, ready) in enumerate(drawn)
    )
    asked = wanted(count + sum(item.same_app for item in nodes), **placement)
    placing = place(asked, count, nodes)
    assert [choice.node for choice in placing.choices] == oracle(asked, count, nodes)
    assert placing.missing == count - len(placing.choices)
    assert sum(item.nodes for item in placing.refusals) == (len(nodes) if placing.missing else 0)
