"""The smaller pure parts: shares, differences, routes, events, node states."""

from __future__ import annotations

import asyncio

import pytest

from gestalt.coordinator.diff import compare
from gestalt.coordinator.events import EventRing, parse_token
from gestalt.coordinator.reconcile import share
from gestalt.coordinator.records import Event, Placed, instance_id
from gestalt.coordinator.routes import Routed, route
from gestalt.coordinator.state import State
from gestalt.errors import GestaltError
from gestalt.model import Server
from tests.unit.coordinator.world import PATH, World, node, spec


@pytest.mark.parametrize(("text", "whole", "up", "down"), [("1", 10, 1, 1), ("25%", 10, 3, 2), ("0", 10, 0, 0), ("100%", 3, 3, 3)])
def test_share(text: str, whole: int, up: int, down: int) -> None:
    assert (share(text, whole, round_up=True), share(text, whole, round_up=False)) == (up, down)


def test_differences_name_the_field_and_both_values() -> None:
    before, after = spec("web:1", env={"A": "1"}), spec("web:2", instances=5, env={"A": "1", "B": "2"})
    found = {change.field: (change.before, change.after) for change in compare(before, after)}
    assert found == {"image": ('"web:1"', '"web:2"'), "instances": ("3", "5"), "env.B": ("", '"2"')}
    assert compare(before, before) == ()
    ports = {change.field for change in compare(before, spec(ports=[{"name": "http", "container_port": 81}]))}
    assert "ports[http].container_port" in ports


def test_routes_name_every_instance_and_drain_what_is_to_stop() -> None:
    world = World()
    world.apply(spec(instances=1))
    version = world.state.version(PATH, 1)
    routed = [
        Routed(Placed(1, 1, "n1", (3000,)), version, "10.0.0.1", ready=True),
        Routed(Placed(2, 1, "n1", (3001,), stop=True), version, "10.0.0.1", ready=True),
        Routed(Placed(3, 1, "n2", (3000,)), version, "", ready=True),
    ]
    (found,) = route(world.app, version, routed)
    name = f"web-{world.app.uid}"
    assert found.key == f"{PATH}:http"
    assert found.servers == (
        Server(f"{name}-1", "10.0.0.1", 3000, ready=True),
        Server(f"{name}-2", "10.0.0.1", 3001, ready=False, drain=True),
    )


def event(sequence: int, epoch: int = 1) -> Event:
    return Event(epoch, sequence, "app.launched", PATH, "", "2026-01-01T00:00:00+00:00", PATH)


def test_a_ring_resumes_after_a_token_and_tells_of_a_gap() -> None:
    ring = EventRing(3)
    ring.append([event(1), event(2), event(3)])
    assert [item.sequence for item in ring.after("1.1")[0]] == [2, 3]
    ring.append([event(4), event(1, epoch=2)])
    assert ring.after("1.2") == ([event(3), event(4), event(1, epoch=2)], False)
    assert ring.after("1.1")[1] is True
    assert ring.last == "2.1"


@pytest.mark.parametrize("token", ["", "x", "1", "1.x", "-1.2", "1.2.3", "٣.١"])  # noqa: RUF001 - other digits
def test_a_malformed_token_is_refused(token: str) -> None:
    with pytest.raises(GestaltError, match="not an event token"):
        parse_token(token)


async def test_a_watcher_gets_what_comes_and_misses_nothing() -> None:
    ring = EventRing(100)
    got: list[int] = []

    async def watch() -> None:
        async for events, _ in ring.watch("0", follow=True):
            got.extend(item.sequence for item in events)
            if got[-1] == 50:
                return

    task = asyncio.create_task(watch())
    for sequence in range(1, 51):
        ring.append([event(sequence)])
        if sequence % 7 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await task
    assert got == list(range(1, 51))


def test_the_instances_of_a_node_are_known_without_a_search() -> None:
    world = World(capacities=(node("n1"), node("n2")))
    for description in (spec(instances=3), spec("web:2", instances=1)):
        world.apply(description)
        world.settle()
        _agree(world.state)
    assert world.placed


def _agree(state: State) -> None:
    found: dict[str, dict[str, str]] = {}
    for path, placements in state.placements.items():
        for placed in placements.instances:
            found.setdefault(placed.node, {})[instance_id(state.apps[path], placed.serial)] = path
    assert {name: {instance: state.owners[instance] for instance in state.placed_on(name)} for name in ("n1", "n2")} == {
        name: found.get(name, {}) for name in ("n1", "n2")
    }
