"""Placing: spread, resources, ports, and reasons."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.values import Capacity
from tests.unit.coordinator.world import node, spec


def test_instances_spread_over_nodes() -> None:
    placing = place(spec(), 6, tuple(node(name) for name in "abc"))
    assert Counter(choice.node for choice in placing.choices) == {"a": 2, "b": 2, "c": 2}


def test_ports_are_distinct_and_go_on_from_the_cursor() -> None:
    placing = place(spec(), 3, (node(port_first=3000, port_last=3003, port_cursor=3002, ports=frozenset({3003})),))
    assert [choice.ports for choice in placing.choices] == [(3002,), (3000,), (3001,)]


def test_a_fixed_port_is_kept_and_used_once_a_node() -> None:
    fixed = spec(ports=[{"name": "http", "container_port": 80, "host_port": 9000}])
    placing = place(fixed, 2, (node("a"),))
    assert [choice.ports for choice in placing.choices] == [(9000,)]
    assert placing.missing == 1
    assert placing.reason == "node a has host port 9000 in use by another instance, another host_port, or none would fit"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ready": False, "why_not": "is cordoned"}, "is cordoned"),
        ({"runtimes": frozenset({"process"})}, "has no working docker runtime"),
        ({"cpu_reserved": 63.5}, "has 0.5 of 64 cores left, 1 are asked for, resources.cpu of at most 0.5 would fit"),
        (
            {"memory_reserved": 64 * 1024**3 - 1024},
            "has 1KiB of memory left, 8MiB are asked for, resources.memory of at most 1KiB would fit",
        ),
        ({"ports": frozenset(range(3000, 4001))}, "has no free host port in 3000-4000"),
    ],
)
def test_every_obstacle_is_told(fields: dict[str, object], reason: str) -> None:
    assert place(spec(resources={"cpu": 1, "memory": "8MiB"}), 1, (node(**fields),)).reason == f"node n1 {reason}"


def test_reasons_of_many_nodes_are_counted() -> None:
    nodes = (node("a", ready=False, why_not="is cordoned"), node("b", ready=False, why_not="is cordoned"), node("c", runtimes=frozenset()))
    assert place(spec(), 1, nodes).reason == "2 nodes: is cordoned; 1 node: has no working docker runtime"


def test_no_node_at_all() -> None:
    assert place(spec(), 1, ()).reason == "no node has joined yet"


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 8), st.integers(0, 8), st.integers(0, 6)), min_size=1, max_size=5), st.integers(0, 20))
def test_nothing_is_over_committed_and_nothing_that_fits_is_left_out(sizes: list[tuple[float, int, int]], count: int) -> None:
    wanted = spec(resources={"cpu": 0.5, "memory": "1GiB"})
    nodes: tuple[Capacity, ...] = tuple(
        node(f"n{index}", cpu=cpu, memory=memory * 1024**3 or 1, port_last=2999 + ports) for index, (cpu, memory, ports) in enumerate(sizes)
    )
    placing = place(wanted, count, nodes)
    on = Counter(choice.node for choice in placing.choices)
    for item in nodes:
        assert on[item.id] * 0.5 <= item.cpu + 1e-6
        assert on[item.id] * 1024**3 <= item.memory
    used = [(choice.node, choice.ports) for choice in placing.choices]
    assert len(set(used)) == len(used)
    room = sum(min(int(cpu / 0.5 + 1e-9), memory, ports) for cpu, memory, ports in sizes)
    assert len(placing.choices) == min(count, room)
    assert placing.missing == count - len(placing.choices)
    assert bool(placing.reason) == bool(placing.missing)
