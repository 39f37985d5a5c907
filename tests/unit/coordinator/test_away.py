"""A node that goes away in mid-change and comes back: its absence is no fault of the instances, and costs the leader nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gestalt.coordinator import changes
from gestalt.coordinator.records import TaskState, instance_id
from gestalt.model import Health, Observed, Phase
from tests.unit.coordinator.world import PATH, World, spec


def launched(instances: int = 3, **fields: object) -> World:
    world = World(**fields)  # type: ignore[arg-type]
    world.apply(spec(instances=instances))
    world.settle()
    return world


def leave(world: World) -> None:
    world.tracker.disconnected(world.view)
    world.decide()


def come_back(world: World) -> None:
    world.tracker.connected(world.view)
    ids = [instance_id(world.app, item.serial) for item in world.placed]
    world.tracker.inventory(world.view, ids, [world.running[identity] for identity in ids if identity in world.running])


def test_nothing_but_an_event_wakes_a_change_whose_node_is_away() -> None:
    world = World()
    world.apply(spec())
    world.decide()
    leave(world)
    world.pass_time(1000)
    decision = world.decide()
    assert decision is not None
    assert math.isinf(decision.wake_in), "time alone changes nothing while the node is away"


@pytest.mark.parametrize("away", [130, 1000])
def test_the_time_away_does_not_count_against_a_change(away: float) -> None:
    world = launched(2)
    world.apply(spec("web:2", instances=2))
    world.decide()
    leave(world)
    world.pass_time(away)
    come_back(world)
    world.decide()
    assert world.last_task.state is TaskState.RUNNING
    assert not world.last_task.rolling_back
    world.settle()
    assert world.last_task.state is TaskState.SUCCEEDED


def test_time_before_the_node_went_away_counts() -> None:
    world = World(broken=frozenset({"web:1"}))
    world.apply(spec(instances=1))
    world.settle()
    world.pass_time(100)
    leave(world)
    world.pass_time(50)
    come_back(world)
    world.pass_time(19)
    world.decide()
    assert world.last_task.state is TaskState.RUNNING
    world.pass_time(2)
    world.decide()
    assert world.last_task.state is TaskState.FAILED


def test_an_instance_that_was_well_for_long_and_is_gone_gets_its_time_to_come_back() -> None:
    world = launched(2)
    world.pass_time(3600)
    world.apply(spec(instances=3))
    world.running.clear()  # the machine was started anew
    leave(world)
    come_back(world)
    world.decide()
    assert world.last_task.state is TaskState.RUNNING
    world.settle()
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_rollback_is_given_its_own_time() -> None:
    deadlines = {"health_deadline": 60, "progress_deadline": 60}
    world = World()
    world.apply(spec(update=deadlines))
    world.settle()
    world.apply(spec("web:2", update=deadlines))
    while sum(item.version == 2 for item in world.ready()) < 2:
        world.decide()
        world.agent_step()
    world.broken = frozenset({"web:2"})
    for _ in range(20):
        world.decide()
        world.agent_step()
    world.pass_time(61)
    world.decide()
    assert "did not become healthy" in world.last_task.rolling_back
    world.decide()
    assert world.last_task.state is TaskState.RUNNING, world.last_task.message
    world.settle()
    assert world.last_task.message.startswith("rolled back to version 1")


def test_a_stop_that_does_not_get_on_fails_and_changes_no_version() -> None:
    world = launched(2, broken=frozenset({"web:bad"}))
    world.apply(spec("web:bad", instances=2))
    world.settle()
    world.ask(changes.stop, PATH)
    world.decide()
    world.pass_time(301)
    world.decide()
    assert (world.last_task.state, world.last_task.rolling_back) == (TaskState.FAILED, "")
    assert world.app.version == 2
    world.settle()
    assert world.placed == ()


def test_without_a_task_time_still_wakes_what_has_only_to_stay_well() -> None:
    world = World(broken=frozenset({"web:1"}))
    world.apply(spec(checks=[], instances=1))
    world.settle()
    world.pass_time(121)
    world.settle()
    assert world.last_task.state is TaskState.FAILED
    world.broken = frozenset()
    world.agent_step()
    decision = world.decide()
    assert decision is not None
    assert decision.wake_in == pytest.approx(1.0)
    world.pass_time(decision.wake_in)
    world.decide()
    assert world.app.stable == 1


def test_a_port_that_is_not_of_the_instance_says_nothing() -> None:
    world = launched(1)
    (seen,) = world.running.values()
    world.tracker.observed(world.view, [replace(seen, port_taken=65000)], ())
    world.decide()
    assert not any(item.stop for item in world.placed)


def test_an_inventory_with_a_lower_attempt_counts() -> None:
    world = launched(1)
    (name,) = world.running
    world.tracker.observed(world.view, [Observed(name, 5, Phase.RUNNING, Health.HEALTHY, ready=True)], ())
    leave(world)
    world.running[name] = Observed(name, 1, Phase.FAILED, reason="began afresh")
    come_back(world)
    assert not world.ready()
