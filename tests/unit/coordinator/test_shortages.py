"""What keeps instances away, as fields: each obstacle with its word, how many nodes it rules out, the nearest miss, and what would help."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.reservations import Reservations
from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.place import place
from gestalt.coordinator.scheduler.shortage import ENOUGH, WORDS, Obstacle, Refusal, Shortage, together
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.shortages import shortage_message
from gestalt.coordinator.spots import There, spots
from gestalt.coordinator.system import plan_nodes
from gestalt.proto.v1 import model_pb2
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.test_columns import Dice
from tests.unit.coordinator.world import node, spec

GIB = 1024**3


def asking(**fields: Any) -> AppSpec:
    return spec(**{"instances": 1, "ports": [], "checks": [], "resources": {"cpu": 4, "memory": "4GiB"}, **fields})


def about(asked: AppSpec, *nodes: Capacity) -> model_pb2.Obstacle:
    """Return the one obstacle that an app has."""
    found = shortage_message(place(asked, asked.instances, nodes).shortage)
    assert found is not None
    (obstacle,) = found.obstacles
    return obstacle


def limited(operator: str, attribute: str, value: str = "") -> dict[str, Any]:
    return {"constraints": [{"operator": operator, "attribute": attribute, "value": value}]}


FIXED, ANY_PORT = ([{"name": "a", "container_port": 80, "host_port": port}] for port in (3001, 0))
TWO_PORTS = [{"name": name, "container_port": port} for name, port in (("a", 80), ("b", 81))]


@pytest.mark.parametrize(
    ("asked", "there", "expected"),
    [
        (asking(), node(ready=False, why_not="is cordoned"), ("not-ready", "", "", "", "")),
        (
            asking(placement={"pool": "gpu"}),
            node(),
            ("pool", "gpu", "default", "gpu", "`gestaltctl node label n1 pool=gpu` puts it there"),
        ),
        (
            asking(),
            node(attributes={"pool": "gpu"}),
            ("pool", "default", "gpu", "default", "`gestaltctl node label n1 pool-` puts it there"),
        ),
        (asking(), node(runtimes=frozenset({"process"})), ("runtime", "docker", "process", "docker", "")),
        (
            asking(placement=limited("=", "drive", "fast ssd")),
            node(),
            ("constraint", "drive = fast ssd", "", "fast ssd", "`gestaltctl node label n1 'drive=fast ssd'` says that it is so"),
        ),
        (asking(placement=limited("=", "rack", "a")), node(attributes={"rack": "b"}), ("constraint", "rack = a", "b", "a", "")),
        (asking(placement=limited("=", "runtime.x", "a")), node(), ("constraint", "runtime.x = a", "", "a", "")),
        (asking(), node(cpu=8, cpu_reserved=4.5), ("cpu", "", "3.5", "4", "resources.cpu of at most 3.5 would fit")),
        (asking(), node(cpu=8, cpu_reserved=8), ("cpu", "", "0", "4", "")),
        (
            asking(),
            node(memory=4 * GIB, memory_reserved=GIB),
            ("memory", "", str(3 * GIB), str(4 * GIB), "resources.memory of at most 3GiB would fit"),
        ),
        (asking(), node(memory=GIB, memory_reserved=GIB), ("memory", "", "0", str(4 * GIB), "")),
        (
            asking(resources={"disk": "2GiB"}),
            node(supply={"disk": GIB}),
            ("disk", "", str(GIB), str(2 * GIB), "resources.disk of at most 1GiB would fit"),
        ),
        (asking(resources={"pids": 9}), node(supply={"pids": 8}), ("pids", "", "8", "9", "resources.pids of at most 8 would fit")),
        (asking(resources={"devices": {"gpu": 1}}), node(), ("device", "gpu", "0", "1", "")),
        (asking(ports=FIXED), node(ports=frozenset({3001})), ("port", "3001", "", "", "another host_port, or none would fit")),
        (asking(ports=ANY_PORT), node(port_first=3000, port_last=3000, ports=frozenset({3000})), ("port", "", "0", "1", "")),
        (asking(ports=TWO_PORTS), node(port_first=3000, port_last=3000), ("port", "", "1", "2", "")),
    ],
)
def test_each_obstacle_has_its_word_and_its_numbers(asked: AppSpec, there: Capacity, expected: tuple[str, ...]) -> None:
    found = about(asked, there)
    assert (found.kind, found.subject, found.has, found.asked, found.help) == expected
    assert (found.nodes, found.nearest) == (1, "n1")


def test_a_constraint_on_the_distribution_is_one_as_well() -> None:
    there = node(attributes={"rack": "a"}, cpu=64, memory=64 * GIB)
    found = about(asking(instances=2, placement=limited("max-per", "rack", "1")), there)
    assert (found.kind, found.subject, found.has) == ("constraint", "max-per rack", "a")


@pytest.mark.parametrize("large", [0, 100])
def test_who_must_not_go_somewhere_says_because_of_whom(large: int) -> None:
    fleet = Fleet(Reservations(), large=large)
    for name in ("n1", "n2", "n3", "n4"):
        fleet.put(node(name))
    avoided = {"n2": "/a/rival", "n3": "/a/rival", "n4": "/a/second"}
    ground = Ground(fleet, left=frozenset({"n1"}), avoided=avoided)
    placing = place(asking(resources={"cpu": 1}), 2, ground)
    assert [(item.obstacle.word, item.obstacle.subject, item.nodes) for item in placing.refusals] == [
        ("apart-from", "/a/rival", 2),
        ("migration", "", 1),
        ("apart-from", "/a/second", 1),
    ]
    assert placing.reason.startswith("2 nodes: has an instance of /a/rival, from which it is kept apart; 1 node: is left by the migration")
    ground = Ground(fleet, left=frozenset({"n1"}), avoided=avoided, only_room=frozenset({"n3"}))
    refusals = {item.text: (item.obstacle.subject, item.nearest) for item in place(asking(resources={"cpu": 1}), 2, ground).refusals}
    assert refusals["keeps room for /a/rival, from which it is kept apart"] == ("/a/rival", "n3")
    assert refusals["has an instance of /a/rival, from which it is kept apart"] == ("/a/rival", "n2")


def test_the_sentence_is_made_from_the_fields() -> None:
    one = Refusal(2, "n2", Obstacle("too few cores left", "has 3 of 8 cores left, 4 are asked for", help="resources.cpu of at most 3"))
    two = Refusal(1, "n4", Obstacle("is cordoned", "is cordoned", remedy="an action is in no sentence"))
    said = "too few cores left (n2 has 3 of 8 cores left, 4 are asked for), resources.cpu of at most 3 would fit"
    message = shortage_message(Shortage(7, (one, two)), 3)
    assert message is not None
    assert (message.missing, message.version, message.message) == (7, 3, f"2 nodes: {said}; 1 node: is cordoned")
    assert [item.message for item in message.obstacles] == [said, "is cordoned"]
    assert str(Shortage(1, (two,))) == "node n4 is cordoned"
    assert str(Shortage(1)) == "no node has joined yet"


def test_where_all_have_a_place_nothing_is_told() -> None:
    shortage = place(asking(), 1, (node(cpu=64, memory=64 * GIB),)).shortage
    assert shortage == ENOUGH
    assert not shortage
    assert str(shortage) == ""
    assert shortage_message(shortage) is None


def test_shortages_of_nodes_that_are_looked_at_one_by_one_are_one() -> None:
    far, near = (Obstacle("too few cores left", f"has {left} left", lack, word="cpu") for left, lack in ((1, 0.9), (3, 0.1)))
    other = Obstacle("is cordoned", "is cordoned")
    one_by_one = [Shortage(1, (Refusal(1, name, item),)) for name, item in (("n0", other), ("n1", far), ("n2", near))]
    assert together([ENOUGH, *one_by_one]) == Shortage(3, (Refusal(2, "n2", near), Refusal(1, "n0", other)))
    assert together([]) == ENOUGH


def test_a_system_app_tells_of_the_nodes_that_are_to_have_it_and_cannot() -> None:
    asked, full = asking(kind="system", instances=0), node("n2", cpu=2)
    plan = plan_nodes(spots(asked, (node("n1", cpu=8), full, replace(full, id="n3", name="n3", cpu=3)), There({}, {})), (), is_same=False)
    found = shortage_message(plan.shortage, 1)
    assert found is not None
    assert [(item.kind, item.nodes, item.nearest, item.has) for item in found.obstacles] == [("cpu", 2, "n3", "3")]
    assert (found.missing, found.message) == (2, "; ".join(plan.warnings()))
    assert "not on node n2: it has 2 of 2 cores left" in found.message


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_every_node_counts_once_and_every_word_is_known(seed: int) -> None:
    dice = Dice(seed)
    nodes = tuple(dice.offer(number) for number in range(6))
    asked = dice.app()
    placing = place(asked, asked.instances, nodes)
    message = shortage_message(placing.shortage)
    assert (message is None) == (len(placing.choices) == asked.instances)
    if message is not None:
        assert message.missing + len(placing.choices) == asked.instances
        assert sum(item.nodes for item in message.obstacles) == len(nodes)
        assert [item.nodes for item in message.obstacles] == sorted((item.nodes for item in message.obstacles), reverse=True)
        assert {item.kind for item in message.obstacles} <= set(WORDS)
        assert all(item.message in message.message or len(message.obstacles) == 1 for item in message.obstacles)
