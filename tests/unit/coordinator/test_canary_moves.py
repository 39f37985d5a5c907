"""Canaries whose node is to be left: a migration that cannot move them fails by itself, a drain waits, and neither costs the canary."""

from __future__ import annotations

import pytest

from gestalt.coordinator import changes, steering
from gestalt.coordinator.records import Placed, Task, TaskState, Verb, instance_id
from gestalt.model import Observed, Phase
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.test_canary import AUTO, BROKEN, fleet, versions
from tests.unit.coordinator.test_drain import mark
from tests.unit.coordinator.world import PATH, spec


def canary_of(world: Fleet) -> Placed:
    (found,) = [item for item in world.placed if item.version == 2 and not item.stop]
    return found


def close(world: Fleet, but: str) -> None:
    """Have no other node take anything."""
    for name in world.machines:
        if name != but:
            mark(world, name, "cordoned")


def moved(world: Fleet, target: str = "") -> Task:
    """Begin a migration off the canary's node."""
    nodes = world.state.nodes
    task = world.ask(changes.migrate, PATH, nodes[canary_of(world).node], nodes.get(target))
    assert task is not None
    return task


def lonely(**fields: object) -> Fleet:
    """Return a fleet with a canary on a node of its own."""
    world = fleet(4, 3, **fields)
    assert world.on(canary_of(world).node) == [canary_of(world).serial]
    return world


def fall_ill(world: Fleet, item: Placed) -> None:
    """Have a canary turn bad for so long that it is given up."""
    world.broken = frozenset({"web:2"})
    seen = Observed(instance_id(world.app, item.serial), 1, Phase.RUNNING)
    world.machines[item.node].running[seen.instance] = seen
    world.tracker.observed(world.view_of(item.node), [seen], ())
    world.settle()
    world.pass_time(121)
    world.settle()
    assert (world.app.canary, world.app.canary_task) == (2, "")


@pytest.mark.parametrize(("auto_rollback", "is_given_up"), [(True, False), (False, False), (False, True)])
def test_a_migration_that_finds_no_room_for_a_canary_fails_and_the_canary_goes_on(auto_rollback: bool, is_given_up: bool) -> None:
    world = lonely(auto_rollback=auto_rollback)
    before = canary_of(world)
    if is_given_up:
        fall_ill(world, before)
        world.broken = frozenset()
        world.settle()  # it is well again, and still given up
    trial = world.app.canary_task
    close(world, but="")
    task = moved(world)
    world.settle()
    world.pass_time(299)
    world.settle()
    assert world.state.tasks[task.id].state is TaskState.RUNNING
    world.pass_time(2)
    world.settle()
    ended = world.state.tasks[task.id]
    assert (ended.kind, ended.state) == (Verb.MIGRATE, TaskState.FAILED)
    assert ended.message.startswith("the canary of version 2 could not be moved: there was no progress for 300 s: ")
    assert ended.message.endswith("; what has not moved stays where it is")
    assert canary_of(world) == before
    assert (world.app.canary, world.app.canary_task, world.app.moving, world.app.task) == (2, trial, (), "")
    if trial:
        assert world.state.tasks[trial].state is TaskState.RUNNING
        world.ask(steering.promote, PATH, "")
        for name in world.machines:
            mark(world, name, "ready")
        world.settle()
        assert versions(world) == [2, 2, 2]


def test_a_canary_that_does_not_become_healthy_elsewhere_stays_where_it_is() -> None:
    world = lonely()
    before = canary_of(world)
    world.broken = frozenset({"web:2"})
    task = moved(world)
    world.settle()
    assert versions(world) == [1, 1, 1, 2, 2]
    world.pass_time(121)
    world.settle()
    assert canary_of(world) == before
    assert "an instance did not become healthy within 120 s" in world.state.tasks[task.id].message
    assert world.app.canary_task


def test_a_canary_that_fails_where_it_is_ends_as_ever_while_others_are_migrated() -> None:
    world = Fleet(4, 3)
    world.broken = BROKEN
    world.settle()
    tried = fleet_with_bad_canary(world)
    other = next(item for item in world.placed if item.version == 1)
    world.ask(changes.migrate, PATH, world.state.nodes[other.node], None)
    world.settle()
    world.pass_time(121)
    world.settle()
    assert world.state.tasks[tried].state is TaskState.FAILED
    assert versions(world) == [1, 1, 1]
    assert world.last_task.state is TaskState.SUCCEEDED


def fleet_with_bad_canary(world: Fleet) -> str:
    world.apply(spec("web:bad", instances=3, update={"strategy": "canary"}))
    world.settle()
    return world.app.canary_task


def test_a_healthy_canary_on_a_node_that_drains_without_room_elsewhere_counts_and_can_be_promoted() -> None:
    world = lonely(max_surge="0", max_unavailable="1")
    home = canary_of(world).node
    close(world, but="")
    mark(world, home, "draining")
    world.settle()
    world.pass_time(1000)
    world.settle()
    assert canary_of(world).node == home
    told = world.trials.sentence(world.app, world.trial())
    places = "3 nodes: is cordoned; 1 node: is draining"
    assert told == f"canary: 1 of 1 healthy for 16m40s, waits for another node ({places}) and for `gestaltctl promote {PATH}`"
    assert world.trials.unready(world.trial()) == ""
    world.ask(steering.promote, PATH, world.trials.unready(world.trial()))
    for name in world.machines:
        if name != home:
            mark(world, name, "ready")
    world.settle()
    assert versions(world) == [2, 2, 2]
    assert not world.on(home)


def test_a_canary_that_is_to_be_promoted_by_itself_says_that_it_waits_for_another_place() -> None:
    world = lonely(**AUTO)
    home = canary_of(world).node
    close(world, but="")
    mark(world, home, "draining")
    world.settle()
    world.pass_time(1000)
    world.settle()
    assert world.app.canary == 2
    told = world.trials.sentence(world.app, world.trial())
    assert told.endswith(f"), then is promoted after 1m, or at once by `gestaltctl promote {PATH}`")
    mark(world, "n1", "ready")
    world.settle()
    world.pass_time(61)
    world.settle()
    assert versions(world) == [2, 2, 2]
