"""What would keep a change, a drain or a dependant from ever ending, and what must not happen by itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gestalt.coordinator import changes, drain, maintenance, steering, turns
from gestalt.coordinator.drain import Limits
from gestalt.coordinator.reconcile import Outcome, Terms, reconcile
from gestalt.coordinator.records import App, Placed, Placements, TaskState, Version, instance_id
from gestalt.coordinator.state import Draft
from gestalt.model import Health, Observed, Phase
from tests.unit.coordinator.fleet import settled
from tests.unit.coordinator.shop import Shop, app
from tests.unit.coordinator.test_canary import AUTO, launched, tried, versions
from tests.unit.coordinator.test_drain import begin
from tests.unit.coordinator.test_system_apps import Everywhere, everywhere, system
from tests.unit.coordinator.world import AT, PATH, spec

OTHER = "/org/ws/env/other"


def test_a_canary_that_was_given_up_is_not_promoted_by_itself_when_it_gets_well_later() -> None:
    world = tried(launched(), "web:bad", auto_rollback=False, **AUTO)
    world.pass_time(121)
    world.settle()
    assert world.last_task.state is TaskState.FAILED
    world.broken = frozenset()
    world.settle()
    world.pass_time(3600)
    world.settle()
    assert versions(world) == [1, 1, 1, 2]


def test_a_pause_ends_with_what_was_paused_though_a_canary_that_was_given_up_is_still_there() -> None:
    world = tried(launched(), "web:bad", auto_rollback=False)
    world.pass_time(121)
    world.settle()
    world.ask(changes.scale, PATH, 5)
    world.decide()
    world.ask(steering.pause, PATH)
    world.ask(steering.resume, PATH)
    world.settle()
    assert (world.app.paused, world.app.task) == ("", "")


def test_cancelling_beside_a_canary_ends_a_restart_with_its_task() -> None:
    world = tried(launched())
    before = {item.serial for item in world.placed if item.version == 1}
    world.ask(changes.restart, PATH)
    world.ask(steering.cancel, PATH)
    world.settle()
    assert {item.serial for item in world.placed} == before


def test_who_depends_on_an_app_of_the_same_request_waits_for_its_canary() -> None:
    shop = Shop()
    shop.apply(app("db", instances=2), app("web", "db"))
    shop.settle()
    tried = app("db", image="two", instances=2, update={"strategy": "canary"})
    shop.apply(tried, app("web", "db", image="two"))
    assert shop.app("web").after == (("/org/ws/env/db", 2),)
    assert shop.wait("web")


def test_what_was_stalled_is_looked_at_again_when_it_has_been_well_for_long_enough() -> None:
    shop = Shop()
    shop.apply(app("db", update={"min_healthy_time": "5s"}))
    shop.settle()
    shop.now += 6
    shop.settle()
    shop.now += 3600
    db = shop.app("db")
    identity = instance_id(db, shop.placed("db")[0].serial)
    for ready in (False, True):
        seen = Observed(identity, 2, Phase.RUNNING, Health.HEALTHY if ready else Health.UNHEALTHY, ready)
        shop.tracker.observed(shop.view, [seen], ())
    views = shop.tracker.views(db, shop.state.placed(db.path).instances)
    decision = reconcile(db, shop.state.version(db.path, 1).spec, views, 3600.0, Terms())
    assert decision.outcome is Outcome.FAILED
    assert math.isclose(decision.wake_in, 5.0)


def test_a_lost_node_that_is_to_be_in_maintenance_is_left_should_it_come_back_before_all_is_replaced() -> None:
    fleet = settled(3, 3)
    fleet.replaceable = 0  # most nodes vanished, or somebody paused replacement
    fleet.lose("n1")
    fleet.settle()
    draft = Draft(fleet.state)
    asked = changes.Asked("me", AT, 0, "m1", "abc")
    maintenance.begin(draft, fleet.state.nodes["n1"], fleet.tracker.standing("n1").life, asked, maintenance.Wish("disks"))
    fleet.state.apply(draft)
    fleet.back("n1")
    fleet.heal()
    assert fleet.on("n1") == []
    assert [node.id for node in drain.done(fleet.state)] == ["n1"]


def _with_a_service(world: Everywhere) -> None:
    draft = Draft(world.state)
    draft.put_version(Version(OTHER, 1, "h", spec(path=OTHER, ports=[], checks=[], instances=1), AT, "me"))
    draft.put_app(App(OTHER, "bbbbbb", 0, 1, 1, 2, 1, AT))
    draft.put_placements(Placements(OTHER, (Placed(1, 1, "n1", ()),)))
    world.state.apply(draft)


@pytest.mark.parametrize("how", ["nothing", "lost", "update"])
def test_a_system_app_takes_no_turn_of_a_drain_that_it_leaves_last(how: str) -> None:
    world = everywhere(4)
    if how == "lost":
        world.lose("n4")
        world.heal()
    _with_a_service(world)
    begin(world, "n1", limits=Limits(parallel=1))
    if how == "update":
        world.apply(system("web:2"))
    for _ in range(10):
        world.settle()
        world.pass_time(2)
    assert turns.free(world.state, world.state.nodes["n1"]) == 1


def test_a_paused_system_app_leaves_a_node_whose_time_to_drain_is_over() -> None:
    world = everywhere(3)
    world.apply(system("web:2"))
    world.decide()
    world.ask(steering.pause, PATH)
    world.state.nodes["n1"] = replace(world.state.nodes["n1"], admin="draining", forced=True)
    world.settle()
    assert "n1" not in {item.node for item in world.placed}
