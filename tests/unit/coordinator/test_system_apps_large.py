"""System apps in a large fleet, which is looked at as columns: whatever happens, the same is decided as in a small one."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator.scheduler.fleet import Fleet, Ground
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.test_system_apps import HAPPENINGS, Everywhere, happen, system

STEPS = [*HAPPENINGS, "decide", "decide", "agent", "update", "fill", "fill", "empty"]


class Large(Everywhere):
    """The nodes as columns, with what the state says is reserved on them."""

    def _nodes(self) -> Ground:  # type: ignore[override]
        fleet = Fleet(self.state.reservations, large=0)
        for item in super()._nodes():
            fleet.put(replace(item, ports=frozenset(), port_cursor=0, same_app=0))
        fleet.why_not = lambda offer: offer.why_not
        return Ground(fleet)


class Small(Large):
    """The same nodes, one by one."""

    def _nodes(self) -> tuple[Capacity, ...]:  # type: ignore[override]
        return tuple(super()._nodes())


def seen(world: Everywhere) -> tuple[Any, ...]:
    """Return what was decided."""
    tasks = [(task.kind, task.state, task.message) for task in world.state.tasks.values()]
    return world.app.count, world.app.version, world.placed, tasks


def asked(fixed: bool) -> dict[str, AppSpec]:
    """Return two versions of an app, which may ask for a host port of its own."""
    ports = [{"name": "http", "container_port": 80, "host_port": 9100 if fixed else 0}]
    return {image: system(image, ports=ports, resources={"cpu": 1}) for image in ("web:1", "web:2", "web:bad")}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_large_fleet_decides_as_a_small_one(seed: int) -> None:
    dice = Random(seed)
    worlds, versions = (Small(3), Large(3)), asked(dice.random() < 0.5)
    for world in worlds:
        world.apply(versions["web:1"])
        world.settle()
    for _ in range(40):
        what, which = dice.choice(STEPS), dice.randrange(20)
        for world in worlds:
            if what in ("fill", "empty"):
                world.cores[f"n{which % 3 + 1}"] = 0.5 if what == "fill" else 64.0
            elif what == "update":
                world.apply(list(versions.values())[which % 3])
            else:
                happen(world, what, which)
        assert seen(worlds[0]) == seen(worlds[1])
