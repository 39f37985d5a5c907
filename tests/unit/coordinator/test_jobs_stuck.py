"""What would keep a job from ever going on: dead machines, old logs, and runs that fit nowhere."""

from __future__ import annotations

from gestalt.coordinator.records import RunState, instance_id
from gestalt.model import Observed, Phase
from tests.unit.coordinator.job_world import JobWorld, job

NOWHERE = {"constraints": [{"attribute": "rack", "operator": "=", "value": "nope"}]}


def test_an_instance_that_was_to_stop_when_its_machine_died_holds_nothing_up() -> None:
    world = JobWorld(3)
    run = world.run()
    world.go()
    (item,) = world.live(world.of(run.id))
    world.administer(item.node, "draining", forced=True)
    world.decide()
    world.lose(item.node)
    world.pass_time(7200)
    world.finish()
    assert world.of(run.id).state is RunState.SUCCEEDED
    assert all(placed.node != item.node for placed in world.placed)


def test_what_ended_makes_way_for_a_version_of_which_only_one_may_exist() -> None:
    world = JobWorld(2)
    first = world.run()
    world.finish()
    assert world.of(first.id).state is RunState.SUCCEEDED
    world.apply(job("report:2", placement={"exclusive": True}))
    world.decide_all()
    second = world.run()
    world.finish()
    assert world.of(second.id).state is RunState.SUCCEEDED


def test_a_run_that_fits_nowhere_lets_younger_ones_begin_and_says_why_it_waits() -> None:
    world = JobWorld(3)
    world.apply(job("report:1", placement=NOWHERE))
    world.decide_all()
    stuck = world.run()
    world.go()
    world.apply(job("report:2"))
    world.decide_all()
    younger = world.run()
    world.go()
    assert [item.run for item in world.placed] == [younger.id]
    assert "rack" in world.waits
    world.finish()
    assert [world.of(run.id).state for run in (stuck, younger)] == [RunState.RUNNING, RunState.SUCCEEDED]


def test_a_launch_that_was_refused_is_looked_at_in_time() -> None:
    world = JobWorld(1)
    run = world.run()
    world.decide_all()
    (item,) = world.live(world.of(run.id))
    world._tell(item, Observed(instance_id(world.app, item.serial), 0, Phase.FAILED, reason="the runtime is not enabled"))
    world.decide()
    assert world.wake_in <= 120
    world.pass_time(121)
    world.decide()
    assert world.of(run.id).failed == 1
