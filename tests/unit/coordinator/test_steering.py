"""Pause, resume and cancel: what becomes of a change that an operator holds or undoes, and of requests that contradict each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gestalt.coordinator import changes, steering
from gestalt.coordinator.records import TaskState, Verb
from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed, Phase
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.world import PATH, World, spec

BROKEN = frozenset({"web:bad"})


def launched(instances: int = 3, strategy: str = "rolling") -> World:
    world = World(broken=BROKEN)
    update(world, "web:1", instances, strategy)
    world.settle()
    return world


def update(world: World, image: str, instances: int = 3, strategy: str = "rolling") -> None:
    world.apply(spec(image, instances=instances, update={"strategy": strategy}))


def go_on(world: World, turns: int) -> None:
    for _ in range(turns):
        world.decide()
        world.agent_step()


def versions(world: World) -> list[int]:
    return sorted(item.version for item in world.placed if not item.stop)


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "recreate", "canary"])
def test_a_paused_update_stays_where_it_is_and_no_deadline_ends_it(strategy: str) -> None:
    world = launched(3, strategy)
    update(world, "web:2", 3, strategy)
    go_on(world, 2)
    paused = world.ask(steering.pause, PATH)
    assert paused is not None
    before = versions(world)
    for _ in range(5):
        world.pass_time(1000)
        world.decide()
        world.agent_step()
    assert versions(world) == before
    assert world.state.tasks[paused.id].state is TaskState.RUNNING
    resumed = world.ask(steering.resume, PATH)
    assert resumed == paused
    world.settle()
    if strategy == "canary":
        world.ask(steering.promote, PATH, "")
        world.settle()
    assert versions(world) == [2, 2, 2]
    assert world.state.tasks[paused.id].state is TaskState.SUCCEEDED
    assert world.app.paused == ""


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "canary"])
def test_deadlines_count_anew_after_a_pause(strategy: str) -> None:
    world = launched(3, strategy)
    update(world, "web:bad", 3, strategy)
    world.settle()
    world.pass_time(100)
    world.ask(steering.pause, PATH)
    world.decide()
    world.pass_time(10_000)
    world.ask(steering.resume, PATH)
    world.settle()
    world.pass_time(119)
    world.settle()
    assert 2 in versions(world), "it still has a second"
    world.pass_time(2)
    world.settle()
    assert versions(world) == [1, 1, 1]


def test_a_pause_outlives_the_leader() -> None:
    world = launched()
    update(world, "web:2")
    go_on(world, 2)
    world.ask(steering.pause, PATH)
    before = world.placed
    world.restart_coordinator()
    world.settle()
    assert world.placed == before
    world.ask(steering.resume, PATH)
    world.settle()
    assert versions(world) == [2, 2, 2]


def test_a_paused_scale_starts_nothing_and_a_paused_scale_down_stops_nothing() -> None:
    for count in (9, 1):
        world = launched(3)
        world.ask(changes.scale, PATH, count)
        world.ask(steering.pause, PATH)
        world.settle()
        assert len(world.ready()) == 3
        world.ask(steering.resume, PATH)
        world.settle()
        assert len(world.ready()) == count


def test_what_is_lost_during_a_pause_is_replaced_but_nothing_else() -> None:
    fleet = settled(4, 3)
    fleet.apply(spec("web:2"))
    go_on(fleet, 2)
    fleet.ask(steering.pause, PATH)
    held = len([item for item in fleet.placed if not item.stop])
    fleet.lose(next(item.node for item in fleet.placed if item.version == 1))
    fleet.heal()
    assert len([item for item in fleet.ready() if not item.stop]) == held
    assert fleet.app.paused == "by tester"
    fleet.ask(steering.resume, PATH)
    fleet.heal()
    assert versions(fleet) == [2, 2, 2]


def test_what_can_never_run_is_replaced_during_a_pause() -> None:
    world = launched(3)
    world.ask(changes.restart, PATH)
    world.decide()
    world.ask(steering.pause, PATH)
    first = world.placed[0]
    seen = Observed(f"web-{world.app.uid}-{first.serial}", 2, Phase.FAILED, port_taken=first.ports[0])
    world.tracker.observed(world.view, [seen], ())
    held = len(world.placed)
    world.settle()
    assert len(world.ready()) == held
    assert first.serial not in {item.serial for item in world.placed}


def test_a_paused_canary_is_neither_promoted_nor_given_up() -> None:
    world = launched()
    world.apply(spec("web:2", update={"strategy": "canary", "promote": "auto", "promote_after": 10}))
    world.settle()
    world.ask(steering.pause, PATH)
    world.pass_time(1000)
    world.settle()
    assert world.app.canary == 2
    with pytest.raises(GestaltError, match="is paused by tester"):
        world.ask(steering.promote, PATH, "")
    world.ask(steering.resume, PATH)
    world.settle()
    assert versions(world) == [2, 2, 2]


def test_a_new_request_ends_a_pause() -> None:
    world = launched()
    update(world, "web:2")
    go_on(world, 2)
    world.ask(steering.pause, PATH)
    update(world, "web:3")
    assert world.app.paused == ""
    world.settle()
    assert versions(world) == [3, 3, 3]


def test_pausing_twice_and_resuming_what_is_not_paused_change_nothing() -> None:
    world = launched()
    update(world, "web:2")
    assert world.ask(steering.resume, PATH) is None
    world.ask(steering.pause, PATH)
    assert world.ask(steering.pause, PATH) is None


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "recreate", "canary"])
@pytest.mark.parametrize("turns", [0, 1, 2, 4, 7])
def test_a_cancelled_update_goes_back_to_the_version_before(strategy: str, turns: int) -> None:
    world = launched(3, strategy)
    update(world, "web:2", 3, strategy)
    first = world.last_task
    go_on(world, turns)
    cancelled = world.ask(steering.cancel, PATH)
    assert cancelled is not None
    world.settle()
    assert versions(world) == [1, 1, 1]
    assert (cancelled.kind, world.state.tasks[cancelled.id].state) == (Verb.CANCEL, TaskState.SUCCEEDED)
    assert world.state.tasks[first.id].state is TaskState.SUPERSEDED
    assert world.state.tasks[first.id].message == f"superseded by cancel (task {cancelled.id})"


def test_a_cancelled_update_that_is_paused_goes_back() -> None:
    world = launched()
    update(world, "web:2")
    go_on(world, 3)
    world.ask(steering.pause, PATH)
    world.ask(steering.cancel, PATH)
    world.settle()
    assert (versions(world), world.app.paused) == ([1, 1, 1], "")


def test_a_cancelled_scale_goes_back_to_the_number_before() -> None:
    for count in (9, 1):
        world = launched(3)
        world.ask(changes.scale, PATH, count)
        world.decide()
        world.ask(steering.cancel, PATH)
        world.settle()
        assert (len(world.ready()), world.app.count) == (3, 3)
        assert world.last_task.state is TaskState.SUCCEEDED


def test_a_cancelled_scale_leaves_a_canary_to_itself_only_the_canary_is_cancelled_first() -> None:
    world = launched()
    update(world, "web:2", 3, "canary")
    world.settle()
    world.ask(changes.scale, PATH, 5)
    world.ask(steering.cancel, PATH)
    world.settle()
    assert versions(world) == [1] * 5, "what was tried is gone, the number stays"


@pytest.mark.parametrize(
    ("verb", "arguments", "outcome"),
    [(changes.restart, (), 3), (changes.stop, (), 3), (changes.rollback, (1,), 3)],
)
def test_cancelling_other_changes(verb: Callable[..., object], arguments: tuple[object, ...], outcome: int) -> None:
    world = launched()
    update(world, "web:2")
    world.settle()
    world.ask(verb, PATH, *arguments)
    go_on(world, 2)
    world.ask(steering.cancel, PATH)
    world.settle()
    assert versions(world) == [2] * outcome
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_cancelled_migration_leaves_what_has_not_moved() -> None:
    fleet = settled(3, 3)
    node = fleet.placed[0].node
    fleet.ask(changes.migrate, PATH, None, fleet.state.nodes["n1"])
    go_on(fleet, 2)
    fleet.ask(steering.cancel, PATH)
    fleet.settle()
    assert len(fleet.ready()) == len(fleet.placed) == 3
    assert fleet.app.moving == ()
    assert {item.node for item in fleet.placed} != {"n1"}, node


def _rolled_back(world: World) -> None:
    update(world, "web:bad")
    world.settle()
    world.pass_time(121)
    world.decide()


def _failing_over(world: World) -> None:
    assert isinstance(world, Fleet)
    world.lose("n1")
    world.decide()


def _launching(world: World) -> None:
    world.ask(changes.delete, PATH)
    world.settle()
    update(world, "web:1")


def _cancelling(world: World) -> None:
    update(world, "web:2")
    go_on(world, 3)
    world.ask(steering.cancel, PATH)


@pytest.mark.parametrize(
    ("prepare", "verb", "message"),
    [
        (lambda world: None, steering.cancel, f"no change of {PATH} is under way"),
        (lambda world: None, steering.pause, f"no change of {PATH} is under way"),
        (_rolled_back, steering.cancel, f"{PATH} is rolled back already: an instance did not become healthy within 120 s"),
        (_cancelling, steering.cancel, f"{PATH} goes back already"),
        (_launching, steering.cancel, f"there is nothing before the launch of {PATH} to go back to"),
        (_failing_over, steering.cancel, f"nothing of {PATH} is being changed: what was lost is replaced"),
        (_failing_over, steering.pause, f"nothing of {PATH} is being changed: what was lost is replaced"),
    ],
)
def test_what_cannot_be_steered_is_refused_and_stays(prepare: Callable[[World], None], verb: object, message: str) -> None:
    world = settled(3, 3)
    world.broken = BROKEN
    prepare(world)
    before = (world.app, world.placed)
    with pytest.raises(GestaltError) as caught:
        world.ask(verb, PATH)
    assert caught.value.kind is Kind.REFUSED
    assert caught.value.message.startswith(message)
    assert caught.value.hint
    assert (world.app, world.placed) == before


def test_of_two_opposite_requests_the_newest_wins_and_the_first_is_told() -> None:
    world = launched(3)
    up = world.ask(changes.scale, PATH, 8)
    down = world.ask(changes.scale, PATH, 1)
    assert up is not None
    assert down is not None
    world.settle()
    assert len(world.placed) == 1
    first, second = world.state.tasks[up.id], world.state.tasks[down.id]
    assert (first.state, first.message) == (TaskState.SUPERSEDED, f"superseded by scale (task {down.id})")
    assert (second.state, second.message) == (TaskState.SUCCEEDED, "1 instance of version 1 is healthy")


def test_of_two_requests_on_the_same_revision_the_second_is_refused() -> None:
    world = launched(3)
    revision = world.app.revision
    world.ask(changes.scale, PATH, 8, expected=revision)
    with pytest.raises(GestaltError) as caught:
        world.ask(changes.stop, PATH, expected=revision)
    assert caught.value.kind is Kind.CONFLICT
    assert caught.value.message == f"{PATH} is at revision {revision + 1}, not {revision}"
    assert not world.app.stopped


@pytest.mark.parametrize("strategy", ["rolling", "blue_green", "recreate", "canary"])
def test_an_update_to_a_broken_image_goes_back_and_says_why(strategy: str) -> None:
    world = launched(3, strategy)
    update(world, "web:bad", 3, strategy)
    for _ in range(4):
        world.settle()
        world.pass_time(121)
    assert versions(world) == [1, 1, 1]
    assert len(world.ready()) == 3
    assert world.last_task.state is TaskState.FAILED
    assert "an instance did not become healthy within 120 s: " in world.last_task.message
