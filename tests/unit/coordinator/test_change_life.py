"""Launch, scale, update, rollback and delete, played through with the pure core and a model of an agent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.records import Placed, Placements, TaskState, Verb
from gestalt.coordinator.state import encode
from gestalt.coordinator.store.base import DOCUMENT_LIMIT
from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed, Phase
from tests.unit.coordinator.world import PATH, World, spec


def launched(instances: int = 3, **fields: object) -> World:
    world = World(**fields)  # type: ignore[arg-type]
    world.apply(spec(instances=instances))
    world.settle()
    assert world.last_task.state is TaskState.SUCCEEDED
    return world


def test_launch_places_all_at_once_and_succeeds_when_all_are_ready() -> None:
    world = World()
    world.apply(spec())
    world.decide()
    assert [item.serial for item in world.placed] == [1, 2, 3]
    assert len({item.ports for item in world.placed}) == 3
    world.settle()
    assert world.last_task.state is TaskState.SUCCEEDED
    assert world.last_task.message == "3 instances of version 1 are healthy"
    assert world.app.stable == 1


def test_scale_down_stops_the_newest_and_keeps_the_rest_untouched() -> None:
    world = launched(5)
    world.ask(changes.scale, PATH, 2)
    world.settle()
    assert [item.serial for item in world.placed] == [1, 2]


def test_scale_down_stops_bad_ones_first() -> None:
    world = launched(3)
    seen = world.running[f"web-{world.app.uid}-1"]
    world.tracker.observed(world.view, [type(seen)(seen.instance, 2, seen.phase)], ())
    world.ask(changes.scale, PATH, 2)
    world.decide()
    assert [item.serial for item in world.placed if item.stop] == [1]


def test_update_goes_one_by_one_and_never_below_the_wanted_number() -> None:
    world = launched(3)
    world.apply(spec("web:2"))
    for _ in range(100):
        world.decide()
        assert len(world.ready()) >= 3
        assert len([item for item in world.placed if not item.stop]) <= 4
        world.agent_step()
    assert {item.version for item in world.placed} == {2}
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_broken_update_is_rolled_back_and_says_why() -> None:
    world = launched(3, broken=frozenset({"web:bad"}))
    world.apply(spec("web:bad"))
    world.settle()
    assert len(world.ready()) == 3
    world.pass_time(121)
    world.settle()
    task = world.last_task
    assert task.state is TaskState.FAILED
    assert "rolled back to version 1" in task.message
    assert "did not become healthy within 120 s" in task.message
    assert [item.version for item in world.placed] == [1, 1, 1]
    assert [item.serial for item in world.placed] == [1, 2, 3], "the old ones were never touched"


def test_a_broken_first_launch_fails_and_is_kept_to_be_looked_at() -> None:
    world = World(broken=frozenset({"web:1"}))
    world.apply(spec())
    world.settle()
    world.pass_time(121)
    world.settle()
    assert world.last_task.state is TaskState.FAILED
    assert len(world.placed) == 3
    assert world.app.task == ""


def test_without_auto_rollback_the_broken_version_stays() -> None:
    world = launched(2, broken=frozenset({"web:bad"}))
    world.apply(spec("web:bad", instances=2, update={"auto_rollback": False}))
    world.settle()
    world.pass_time(121)
    world.settle()
    assert world.last_task.state is TaskState.FAILED
    assert world.app.version == 2
    assert len(world.ready()) == 2


def test_the_newest_request_supersedes_a_running_one() -> None:
    world = launched(3, broken=frozenset({"web:bad"}))
    world.apply(spec("web:bad"))
    world.settle()
    world.apply(spec("web:3"))
    world.settle()
    states = [task.state for task in world.state.tasks.values()]
    assert states == [TaskState.SUCCEEDED, TaskState.SUPERSEDED, TaskState.SUCCEEDED]
    assert {item.version for item in world.placed} == {3}


def test_without_checks_running_for_a_moment_is_not_enough() -> None:
    world = World()
    world.apply(spec(checks=[]))
    world.settle()
    assert len(world.ready()) == 3
    assert world.last_task.state is TaskState.RUNNING
    world.pass_time(1.1)
    world.settle()
    assert world.last_task.state is TaskState.SUCCEEDED


def test_min_healthy_time_holds_back_the_replacement_of_the_next_one() -> None:
    world = launched(2)
    world.apply(spec("web:2", instances=2, update={"min_healthy_time": 5}))
    world.settle()
    assert sum(item.version == 2 for item in world.placed) == 1
    assert not any(item.stop for item in world.placed)
    for _ in range(3):
        world.pass_time(5.1)
        world.settle()
    assert {item.version for item in world.placed} == {2}
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_fixed_host_port_stops_before_it_starts() -> None:
    port = {"name": "http", "container_port": 80, "host_port": 3500}
    world = World()
    world.apply(spec(instances=1, ports=[port]))
    world.settle()
    world.apply(spec("web:2", instances=1, ports=[port]))
    for _ in range(20):
        world.decide()
        assert len(world.placed) <= 1
        world.agent_step()
    assert [item.version for item in world.placed] == [2]


def test_restart_replaces_every_instance_with_the_same_version() -> None:
    world = launched(3)
    world.ask(changes.restart, PATH)
    for _ in range(100):
        world.decide()
        assert len(world.ready()) >= 3
        world.agent_step()
    assert [item.serial for item in world.placed] == [4, 5, 6]
    assert {item.version for item in world.placed} == {1}


def test_stop_and_start_keep_the_description_and_make_no_version() -> None:
    world = launched(3)
    world.ask(changes.stop, PATH)
    world.settle()
    assert world.placed == ()
    assert world.last_task.state is TaskState.SUCCEEDED
    assert world.ask(changes.stop, PATH) is None
    world.ask(changes.start, PATH)
    world.settle()
    assert len(world.ready()) == 3
    assert world.app.last_version == 1


def test_rollback_goes_to_the_version_before_and_keeps_the_count() -> None:
    world = launched(3)
    world.apply(spec("web:2", instances=4))
    world.settle()
    world.ask(changes.rollback, PATH, 0)
    world.settle()
    assert world.app.version == 1
    assert world.app.count == 4
    assert {item.version for item in world.placed} == {1}


def test_rollback_without_a_number_skips_what_was_never_healthy() -> None:
    world = launched(1, broken=frozenset({"web:3"}))
    for image in ("web:2", "web:3", "web:4"):
        world.apply(spec(image, instances=1))
        world.settle()
        world.pass_time(121)
        world.settle()
    assert (world.app.version, world.app.stable) == (4, 4)
    world.ask(changes.rollback, PATH, 0)
    assert world.app.version == 2


def test_the_placements_of_the_largest_app_fit_into_the_store() -> None:
    instances = tuple(
        Placed(10**9 + number, 10**6, f"{number:036}", (10_000 + number, 65_535, 65_535, 65_535), stop=True)
        for number in range(2 * changes.MAX_INSTANCES)
    )
    assert len(encode(Placements(PATH, instances))) < DOCUMENT_LIMIT


def test_delete_leaves_nothing_but_the_task() -> None:
    world = launched(2)
    world.ask(changes.delete, PATH)
    world.settle()
    assert not world.state.apps
    assert not world.state.versions
    assert not world.state.placements
    assert not world.state.owners
    assert world.last_task.state is TaskState.SUCCEEDED
    assert world.last_task.kind is Verb.DELETE


@pytest.mark.parametrize("verb", [changes.stop, changes.delete])
def test_an_app_in_a_crash_loop_can_be_stopped_and_deleted(verb: object) -> None:
    world = World(broken=frozenset({"web:1"}))
    world.apply(spec(instances=1))
    world.decide()
    name = f"web-{world.app.uid}-1"
    world.tracker.observed(world.view, [Observed(name, 5, Phase.FAILED, crash_loop=True, reason="exit code 3")], ())
    world.ask(verb, PATH)
    world.settle()
    assert world.placed == ()
    assert world.last_task.state is TaskState.SUCCEEDED


def test_applying_the_same_again_changes_nothing() -> None:
    world = launched(3)
    assert world.apply(spec()) is None


@pytest.mark.parametrize(
    ("change", "arguments", "kind"),
    [
        (changes.scale, ("/no/such/app/here", 2), Kind.NOT_FOUND),
        (changes.scale, (PATH, -1), Kind.INVALID),
        (changes.scale, (PATH, changes.MAX_INSTANCES + 1), Kind.INVALID),
        (changes.rollback, (PATH, 7), Kind.INVALID),
        (changes.rollback, (PATH, 0), Kind.REFUSED),
        (changes.describe, (Verb.LAUNCH, spec(), ()), Kind.EXISTS),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(change: object, arguments: tuple[object, ...], kind: Kind) -> None:
    world = launched(1)
    before = (world.app, world.placed)
    with pytest.raises(GestaltError) as caught:
        world.ask(change, *arguments)
    assert caught.value.kind is kind
    assert (world.app, world.placed) == before


def test_expected_version_is_compared_and_set() -> None:
    world = launched(1)
    revision = world.app.revision
    with pytest.raises(GestaltError) as caught:
        world.ask(changes.scale, PATH, 2, expected=revision + 1)
    assert caught.value.kind is Kind.CONFLICT
    world.ask(changes.scale, PATH, 2, expected=revision)
    assert world.app.revision == revision + 1


def test_an_agent_that_was_not_heard_has_nothing_stopped() -> None:
    world = launched(3)
    world.tracker.disconnected(world.view)
    world.apply(spec("web:2"))
    for _ in range(5):
        world.decide()
    assert not any(item.stop for item in world.placed)


def test_an_instance_whose_port_someone_else_holds_is_replaced_by_one_on_another_port() -> None:
    world = launched(2)
    first, second = world.placed
    seen = world.running[f"web-{world.app.uid}-1"]
    world.tracker.observed(world.view, [replace(seen, attempt=2, phase=Phase.FAILED, ready=False, port_taken=first.ports[0])], ())
    world.settle()
    assert first.serial not in {item.serial for item in world.placed}
    assert second in world.placed
    assert len(world.ready()) == 2
    assert first.ports[0] not in {port for item in world.placed for port in item.ports}


def test_a_fixed_port_that_someone_else_holds_is_waited_for() -> None:
    world = World()
    world.apply(spec(instances=1, ports=[{"name": "http", "container_port": 80, "host_port": 3500}]))
    world.decide()
    seen = Observed(f"web-{world.app.uid}-1", 1, Phase.FAILED, reason="port 3500 is taken", port_taken=3500)
    world.tracker.observed(world.view, [seen], ())
    world.decide()
    assert [(item.serial, item.stop) for item in world.placed] == [(1, False)]


STEPS = st.lists(st.tuples(st.sampled_from(["decide", "agent", "agent", "restart", "time"]), st.integers(0, 9)), max_size=60)


@settings(max_examples=150)
@given(STEPS, st.sampled_from(["web:2", "web:bad"]), st.integers(1, 4))
def test_an_update_interrupted_anywhere_keeps_its_promise_and_ends_in_an_allowed_state(
    steps: list[tuple[str, int]], image: str, count: int
) -> None:
    world = launched(count, broken=frozenset({"web:bad"}))
    world.apply(spec(image, instances=count))
    for what, which in steps:
        world.happen(what, which)
        assert len(world.ready()) >= count
        assert len([item for item in world.placed if not item.stop]) <= count + 1
    for _ in range(6):
        world.settle()
        world.pass_time(301)
    succeeded = world.last_task.state is TaskState.SUCCEEDED
    assert succeeded or world.last_task.state is TaskState.FAILED
    assert {item.version for item in world.placed} == {2 if succeeded else 1}
    assert not (succeeded and image == "web:bad")
    assert succeeded or image == "web:bad" or "did not become healthy within" in world.last_task.message
    assert len(world.ready()) == count == len(world.placed)
