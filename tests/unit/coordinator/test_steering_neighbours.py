"""Canaries, pauses and cancels where they meet dependencies, limits of drains, system apps and autoscaling."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.coordinator import changes, steering
from gestalt.coordinator.dependencies import Wait
from gestalt.coordinator.records import TaskState
from gestalt.coordinator.state import Draft
from gestalt.coordinator.turns import free, on_the_move
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.shop import Shop, app
from tests.unit.coordinator.test_canary import tried, versions
from tests.unit.coordinator.test_dependencies import DB
from tests.unit.coordinator.test_system_apps import everywhere, system
from tests.unit.coordinator.test_update_strategies import asked
from tests.unit.coordinator.world import PATH, World, spec

WEB = "/org/ws/env/web"


class Needy(World):
    """What the canary of the app waits for, if it waits for something."""

    wait = Wait()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.trials.look = self._look  # type: ignore[method-assign]

    def _look(self, *arguments: object, **options: object) -> object:
        return type(self.trials).look(self.trials, *arguments, needs=lambda _: self.wait, **options)  # type: ignore[arg-type]


def test_a_canary_waits_for_what_it_depends_on_and_says_so() -> None:
    world = Needy()
    world.apply(spec())
    world.settle()
    world.wait = Wait(0, 1, "waits for /org/ws/env/db, of which 0 of 1 instances are healthy", is_changing=True)
    tried(world)
    world.pass_time(10_000)
    world.settle()
    assert versions(world) == [1, 1, 1]
    told = world.trials.sentence(world.app, world.trial())
    assert told == "canary: 0 of 1 healthy: waits for /org/ws/env/db, of which 0 of 1 instances are healthy"
    world.wait = Wait(1, 1)
    world.settle()
    assert versions(world) == [1, 1, 1, 2]
    world.wait = Wait(0, 1, "waits for /org/ws/env/db")
    world.ask(changes.restart, PATH)
    world.settle()
    assert versions(world) == [1, 1, 1, 2], "what is ill later holds nothing back"


def test_a_canary_fails_when_what_it_waits_for_is_not_coming() -> None:
    world = Needy()
    world.apply(spec())
    world.settle()
    world.wait = Wait(0, 1, "waits for /org/ws/env/db", failed="/org/ws/env/db, on which it depends, was taken away")
    tried(world)
    assert (world.app.canary, versions(world)) == (0, [1, 1, 1])
    assert "/org/ws/env/db, on which it depends, was taken away" in world.last_task.message


def waiting() -> Shop:
    shop = Shop()
    for each in (app("db"), app("web", "db")):
        shop.apply(each)
        shop.settle()
    shop.ask(changes.stop, DB)
    shop.settle()
    shop.apply(app("web", "db", image="two"))
    shop.settle()
    assert (shop.app("web").version, shop.app("web").goal) == (1, 2)
    return shop


def test_an_update_that_waits_for_a_dependency_does_not_begin_while_it_is_paused() -> None:
    shop = waiting()
    shop.ask(steering.pause, WEB)
    shop.ask(changes.start, DB)
    shop.settle()
    shop.now += 10_000
    shop.settle()
    assert (shop.images("web"), shop.task("web").state) == (["one"], TaskState.RUNNING)
    shop.ask(steering.resume, WEB)
    shop.settle()
    assert (shop.images("web"), shop.task("web").state) == (["two"], TaskState.SUCCEEDED)


def test_an_update_that_waits_for_a_dependency_is_cancelled_with_nothing_touched() -> None:
    shop = waiting()
    before = shop.placed("web")
    shop.ask(steering.cancel, WEB)
    shop.settle()
    found = shop.app("web")
    assert (found.version, found.goal, shop.placed("web"), shop.task("web").state) == (1, 1, before, TaskState.SUCCEEDED)


def test_a_cancelled_update_goes_back_without_waiting_for_what_the_version_before_depends_on() -> None:
    shop = Shop()
    for each in (app("db"), app("web", "db")):
        shop.apply(each)
        shop.settle()
    shop.apply(app("web", image="bad"))
    shop.decide("web")
    shop.ask(changes.stop, DB)
    shop.ask(steering.cancel, WEB)
    shop.settle()
    assert (shop.app("web").goal, shop.images("web")) == (1, ["one"])


def test_a_canary_is_not_taken_for_one_that_is_on_the_move() -> None:
    fleet = Fleet(4, 3)
    fleet.settle()
    tried(fleet)
    node = fleet.placed[0].node
    assert on_the_move(fleet.state, PATH, node, 1) == 0
    draft = Draft(fleet.state)
    draft.put_node(replace(fleet.state.nodes[node], admin="draining", drain="t", parallel=1))
    fleet.state.apply(draft)
    assert free(fleet.state, fleet.state.nodes[node]) == 1
    fleet.settle()
    assert not fleet.on(node)
    assert versions(fleet) == [1, 1, 1, 2]


def test_a_paused_update_of_a_system_app_stays_where_it_is() -> None:
    world = everywhere()
    world.apply(system("web:2"))
    for _ in range(3):
        world.decide()
        world.agent_step()
    world.ask(steering.pause, PATH)
    before = sorted(world.where.items())
    for _ in range(6):
        world.pass_time(1000)
        world.decide()
        world.agent_step()
    assert sorted(world.where.items()) == before
    assert world.last_task.state is TaskState.RUNNING
    world.ask(steering.resume, PATH)
    for _ in range(8):
        world.settle()
        world.pass_time(2)
    assert set(world.where.values()) == {2}
    assert world.last_task.state is TaskState.SUCCEEDED


@pytest.mark.parametrize("verb", [steering.cancel, changes.rollback])
def test_a_cancelled_update_of_a_system_app_goes_back(verb: object) -> None:
    world = everywhere()
    world.apply(system("web:2"))
    for _ in range(3):
        world.decide()
        world.agent_step()
    world.ask(verb, PATH, *((1,) if verb is changes.rollback else ()))
    for _ in range(8):
        world.settle()
        world.pass_time(2)
    assert set(world.where.values()) == {1}
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_forced_drain_moves_what_is_paused() -> None:
    """What has to stop at the deadline of a drain stops, paused or not, and as many as there were are there again."""
    fleet = Fleet(3, 3)
    fleet.settle()
    fleet.apply(spec("web:2"))
    fleet.decide()
    fleet.ask(steering.pause, PATH)
    held = len([item for item in fleet.placed if not item.stop])
    node = fleet.placed[0].node
    draft = Draft(fleet.state)
    draft.put_node(replace(fleet.state.nodes[node], admin="draining", drain="t"))
    fleet.state.apply(draft)
    fleet.settle()
    assert fleet.on(node), "a drain waits for what is paused"
    draft = Draft(fleet.state)
    draft.put_node(replace(fleet.state.nodes[node], forced=True))
    fleet.state.apply(draft)
    fleet.settle()
    assert not fleet.on(node)
    assert len(fleet.ready()) == held


def test_a_canary_gets_requests_beside_blue_and_greens_that_gave_way_get_none() -> None:
    world = World()
    for image in ("web:1", "web:2"):
        world.apply(spec(image, update={"strategy": "blue_green"}))
        if image == "web:1":
            world.settle()
    for _ in range(5):
        world.decide()
        world.agent_step()
    world.apply(spec("web:3", update={"strategy": "canary"}))
    assert sum(item.version == 2 for item in world.ready()) == 2
    seen = {tuple(sorted(asked(world)))}
    for _ in range(30):
        world.decide()
        seen.add(tuple(sorted(asked(world))))
        world.agent_step()
    assert seen == {(1, 1, 1), (1, 1, 1, 3)}
    assert versions(world) == [1, 1, 1, 3]
