"""Whom to stop for room: compared with trying all sets of instances on all nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.scheduler import preempt
from gestalt.coordinator.scheduler.fleet import released
from gestalt.coordinator.scheduler.obstacles import room_obstacle
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.preempt import Kind, Room, Search, Victim, cost, smallest
from gestalt.coordinator.scheduler.values import Capacity, demands
from gestalt.spec.schema import AppSpec, Resources
from tests.unit.coordinator.world import node, spec

GIB = 1024**3


def victim(name: str, priority: int = 20, ports: tuple[int, ...] = (), **asked: object) -> Victim:
    return Victim(name, Kind(priority, Resources.model_validate({"cpu": 0, "memory": 0} | asked)), ports)


def full(name: str, victims: Sequence[Victim], **fields: object) -> Capacity:
    """Return a node with these instances reserved."""
    supply = Counter[str]()
    for item in victims:
        supply.update(demands(item.kind.resources))
    return node(
        name,
        cpu=4,
        memory=8 * GIB,
        supply={"disk": 100, "devices.gpu": 2},
        cpu_reserved=sum(item.kind.resources.cpu for item in victims),
        memory_reserved=sum(item.kind.resources.memory for item in victims),
        supply_reserved=supply,
        ports=frozenset(port for item in victims for port in item.ports),
        **fields,
    )


def found(asked: AppSpec, count: int, nodes: Sequence[Capacity], victims: Mapping[str, Sequence[Victim]]) -> tuple[Room, ...]:
    search = Search(asked, lambda name: victims.get(name, ()))
    for item in nodes:
        search.add(item)
    return search.find(count)


def fits(asked: AppSpec, there: Capacity, gone: Sequence[Victim]) -> bool:
    for item in gone:
        there = released(there, item.ports, item.kind.resources)
    return room_obstacle(asked, there) is None


def oracle(asked: AppSpec, there: Capacity, victims: Sequence[Victim]) -> tuple[int, int, int, int] | None:
    """Return what the best of all sets costs."""
    for size in range(len(victims) + 1):
        if sets := [cost(chosen) for chosen in combinations(victims, size) if fits(asked, there, chosen)]:
            return min(sets)
    return None


_VICTIM = st.builds(
    lambda number, priority, cpu, memory, disk, gpu, port: victim(
        f"v{number}", priority, (port,) if port else (), cpu=cpu, memory=memory * GIB, disk=disk, devices={"gpu": gpu} if gpu else {}
    ),
    st.integers(0, 999),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.3, 1.7, 2.0]),
    st.integers(0, 4),
    st.sampled_from([0, 30, 60]),
    st.integers(0, 1),
    st.sampled_from([0, 0, 3000, 3001, 8080]),
)
_VICTIMS = st.lists(_VICTIM, max_size=8, unique_by=(lambda item: item.id, lambda item: item.ports or item.id))
"""What is on one node: no two of it have the same port."""
_ASKED = st.builds(
    lambda cpu, memory, disk, gpu, ports: spec(
        resources={"cpu": cpu, "memory": memory * GIB, "disk": disk, "devices": {"gpu": gpu} if gpu else {}},
        ports=[{"name": f"p{at}", "container_port": 80 + at, "host_port": port} for at, port in enumerate(ports)],
        checks=[],
    ),
    st.sampled_from([0.0, 0.3, 1.0, 2.5, 4.0, 5.0]),
    st.integers(0, 9),
    st.sampled_from([0, 50, 100]),
    st.integers(0, 2),
    st.sampled_from([(), (0,), (8080,), (0, 0), (0, 3000)]),
)


@settings(max_examples=600, deadline=None)
@given(_ASKED, _VICTIMS)
def test_no_smaller_set_would_do_and_none_of_the_same_size_is_cheaper(asked: AppSpec, victims: list[Victim]) -> None:
    there = full("n1", victims, port_first=3000, port_last=3002)
    chosen = smallest(asked, there, victims)
    expected = oracle(asked, there, victims)
    assert (chosen is None) == (expected is None)
    if chosen is not None:
        assert cost(chosen) == expected
        assert fits(asked, there, chosen)
        assert len({item.id for item in chosen}) == len(chosen)


@settings(max_examples=200, deadline=None)
@given(_ASKED, st.lists(_VICTIMS, min_size=1, max_size=3), st.integers(1, 3))
def test_the_best_of_all_nodes_is_taken_again_and_again(asked: AppSpec, groups: list[list[Victim]], count: int) -> None:
    victims = {f"n{number}": group for number, group in enumerate(groups)}
    nodes = {name: full(name, group, port_first=3000, port_last=3002) for name, group in victims.items()}
    rooms = found(asked, count, tuple(nodes.values()), victims)
    left = {name: list(group) for name, group in victims.items()}
    for room in rooms:
        costs = [value for name, group in left.items() if (value := oracle(asked, nodes[name], group)) is not None]
        assert cost(room.victims) == min(costs)
        for item in room.victims:
            nodes[room.node] = released(nodes[room.node], item.ports, item.kind.resources)
            left[room.node].remove(item)
        placing = place(asked, 1, (nodes[room.node],))
        assert not placing.missing, "there is room for it"
        nodes[room.node] = preempt.reserve(nodes[room.node], asked, placing.choices[0].ports)
    if len(rooms) < count:
        assert all(oracle(asked, nodes[name], group) is None for name, group in left.items()), "nobody could have been stopped for more"


@settings(max_examples=150, deadline=None)
@given(_ASKED, _VICTIMS)
def test_a_search_that_gives_up_still_stops_nobody_in_vain(asked: AppSpec, victims: list[Victim]) -> None:
    there, steps = full("n1", victims, port_first=3000, port_last=3002), preempt._STEPS
    preempt._STEPS = 0
    try:
        chosen = smallest(asked, there, victims)
    finally:
        preempt._STEPS = steps
    assert (chosen is None) == (oracle(asked, there, victims) is None)
    if chosen is not None:
        assert fits(asked, there, chosen)
        assert not any(fits(asked, there, [item for item in chosen if item is not one]) for one in chosen)


@settings(max_examples=100, deadline=None)
@given(_ASKED, st.lists(_VICTIMS, min_size=1, max_size=3), st.randoms())
def test_the_order_in_which_they_are_told_of_says_nothing(asked: AppSpec, groups: list[list[Victim]], chance: object) -> None:
    victims = {f"n{number}": group for number, group in enumerate(groups)}
    nodes = [full(name, group) for name, group in victims.items()]
    first = found(asked, 2, nodes, victims)
    mixed = {name: chance.sample(group, len(group)) for name, group in victims.items()}  # type: ignore[attr-defined]
    assert found(asked, 2, chance.sample(nodes, len(nodes)), mixed) == first  # type: ignore[attr-defined]


BIG = spec(resources={"cpu": 3}, ports=[], checks=[])


def test_fewer_come_before_less_important_and_these_before_smaller_ones() -> None:
    small = [victim(f"small{number}", 0, cpu=1) for number in range(3)]
    victims = {"a": [*small, victim("x", 0, cpu=1)], "b": [victim("large", 40, cpu=4)]}
    nodes = [full(name, group) for name, group in victims.items()]
    assert found(BIG, 1, nodes, victims) == (Room("b", tuple(victims["b"])),)
    victims = {"a": [victim("dear", 40, cpu=4)], "b": [victim("cheap", 30, cpu=4)]}
    assert found(BIG, 1, [full(name, group) for name, group in victims.items()], victims)[0].node == "b"
    victims = {"a": [victim("large", cpu=4)], "b": [victim("exact", cpu=3), victim("rest", 90, cpu=1)]}
    assert found(BIG, 1, [full(name, group) for name, group in victims.items()], victims)[0].node == "b"


@pytest.mark.parametrize("there", [0, 1])
def test_groups_out_of_reach_of_a_cluster_keep_no_room_from_being_made(there: int) -> None:
    constraints = [{"attribute": "zone", "operator": "cluster"}, {"attribute": "rack", "operator": "group-by"}]
    asked = spec(resources={"cpu": 2, "memory": 0}, ports=[], checks=[], placement={"constraints": constraints})
    places = {"a": ("x", "r1"), "b": ("x", "r2"), "c": ("y", "r3")}
    victims = {name: [victim(f"{name}{number}", cpu=2) for number in range(2 - (there if name == "a" else 0))] for name in places}
    attributes = {name: {"zone": zone, "rack": rack} for name, (zone, rack) in places.items()}
    nodes = [full(name, group, attributes=attributes[name]) for name, group in victims.items()]
    nodes[0] = replace(nodes[0], cpu_reserved=4.0, same_app=there)
    rooms = Counter(room.node for room in found(asked, 4 - there, nodes, victims))
    assert rooms == {"a": 2 - there, "b": 2}, "two in each rack of the zone, although the other zone has a rack with none"


def test_of_equal_sets_the_node_with_more_points_is_taken_and_then_the_first_by_name() -> None:
    liking = spec(resources={"cpu": 3}, ports=[], checks=[], placement={"affinities": [{"attribute": "disk", "value": "ssd"}]})
    victims = {name: [victim(name, cpu=4)] for name in ("a", "b", "c")}
    nodes = [full(name, group, attributes={"disk": "ssd"} if name == "b" else {}) for name, group in victims.items()]
    assert found(liking, 1, nodes, victims)[0].node == "b"
    assert [room.node for room in found(BIG, 3, nodes, victims)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "fields",
    [
        {"ready": False, "why_not": "is cordoned"},
        {"ready": False, "why_not": "has an instance of /a, from which it is kept apart"},
        {"attributes": {"pool": "gpu"}},
        {"runtimes": frozenset({"process"})},
        {"attributes": {"disk": "hdd"}},
        {"attributes": {"disk": "ssd", "rack": "r1"}, "same_app": 1},
        {"attributes": {"disk": "ssd", "rack": "r1"}, "ports": frozenset({8080})},
        {"attributes": {"disk": "ssd", "rack": "r1"}, "cpu": 2.0},
    ],
)
def test_what_stopping_does_not_help_with_stops_nobody(fields: dict[str, object]) -> None:
    constraints = [{"attribute": "disk", "value": "ssd"}, {"attribute": "rack", "operator": "unique"}]
    ports = [{"name": "http", "container_port": 80, "host_port": 8080}]
    picky = spec(resources={"cpu": 3}, ports=ports, checks=[], placement={"constraints": constraints})
    victims = {"a": [victim("v", cpu=4)]}
    assert not found(picky, 1, [replace(full("a", victims["a"]), **fields)], victims)  # type: ignore[arg-type]
    able = {"attributes": {"disk": "ssd", "rack": "r1"}}
    assert found(picky, 1, [replace(full("a", victims["a"]), **able)], victims) == (Room("a", tuple(victims["a"])),)  # type: ignore[arg-type]


def test_limits_on_how_instances_are_distributed_hold_among_those_that_get_room() -> None:
    racks = {"a": "r1", "b": "r1", "c": "r2", "d": "r3"}
    victims = {name: [victim(name, cpu=4)] for name in racks}
    nodes = [full(name, victims[name], attributes={"rack": rack}) for name, rack in racks.items()]

    def racks_of(operator: str, count: int, value: str = "") -> list[str]:
        limited = spec(resources={"cpu": 3}, ports=[], checks=[], placement={"constraints": [
            {"attribute": "rack", "operator": operator, "value": value}
        ]})  # fmt: skip
        return [racks[room.node] for room in found(limited, count, nodes, victims)]

    assert racks_of("unique", 4) == ["r1", "r2", "r3"]
    assert racks_of("cluster", 4) == ["r1", "r1"]
    assert racks_of("group-by", 4) == ["r1", "r2", "r3", "r1"]
    assert racks_of("max-per", 4, "2") == ["r1", "r1", "r2", "r3"]


def test_room_for_which_nobody_goes_is_taken_first_and_can_be_kept() -> None:
    victims = {"a": [victim("v", cpu=4)]}
    nodes = [full("a", victims["a"]), full("b", [])]
    assert found(BIG, 2, nodes, victims) == (Room("b", ()), Room("a", tuple(victims["a"])))
    search = Search(BIG, lambda name: victims.get(name, ()))
    for item in nodes:
        search.add(item)
    assert (search.take("a"), search.take("b"), search.take("b"), search.take("nowhere")) == (False, True, False, False)
    assert search.find(2) == (Room("a", tuple(victims["a"])),)


def test_many_small_ones_are_counted_out_quickly() -> None:
    crowd = [victim(f"v{number:03}", cpu=0.01 + number / 100_000) for number in range(300)]
    there = replace(full("a", crowd), cpu=sum(item.kind.resources.cpu for item in crowd))
    chosen = smallest(spec(resources={"cpu": 1}, ports=[], checks=[]), there, crowd)
    largest = sorted((item.kind.resources.cpu for item in crowd), reverse=True)
    assert chosen is not None
    assert sum(largest[: len(chosen) - 1]) < 1 <= sum(largest[: len(chosen)])
