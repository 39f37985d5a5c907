"""Canaries: a version that is tried beside the wanted one, promoted or dropped, while everything else goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.coordinator import changes, steering
from gestalt.coordinator.records import Node, TaskState, Verb
from gestalt.coordinator.state import Draft
from gestalt.errors import GestaltError, Kind
from gestalt.model import Observed, Phase
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.world import AT, PATH, World, spec

BROKEN = frozenset({"web:bad"})
AUTO = {"promote": "auto", "promote_after": 60}


def launched(instances: int = 3, **fields: object) -> World:
    world = World(broken=BROKEN, **fields)  # type: ignore[arg-type]
    world.apply(spec(instances=instances))
    world.settle()
    return world


def tried(world: World, image: str = "web:2", instances: int = 3, **fields: object) -> World:
    """Begin an update with a canary, and let it come to rest."""
    world.apply(spec(image, instances=instances, update={"strategy": "canary", **fields}))
    world.settle()
    return world


def versions(world: World) -> list[int]:
    return sorted(item.version for item in world.placed if not item.stop)


def test_a_canary_stands_beside_the_others_and_waits() -> None:
    world = tried(launched())
    assert versions(world) == [1, 1, 1, 2]
    assert [item.serial for item in world.placed] == [1, 2, 3, 4], "nothing else was touched"
    assert (world.app.version, world.app.canary, world.app.stable) == (1, 2, 1)
    assert world.last_task.state is TaskState.RUNNING
    world.pass_time(100_000)
    world.settle()
    assert versions(world) == [1, 1, 1, 2], "it waits for ever"


CPU = {"min": 1, "max": 9, "metrics": [{"kind": "cpu", "target": 50}]}


@pytest.mark.parametrize(
    ("policy", "instances", "is_other"), [(CPU, 3, False), (CPU | {"max": 8}, 3, True), (None, 3, True), (CPU | {"min": 5}, 5, True)]
)
def test_another_policy_that_comes_with_a_canary_begins_a_cool_down_that_is_kept(
    policy: dict[str, object] | None, instances: int, is_other: bool
) -> None:
    world = World()
    world.apply(spec(instances=3, autoscale=CPU))
    world.settle()
    draft = Draft(world.state)
    draft.put_app(replace(world.app, changed_at="2025-12-31T00:00:00+00:00"))
    world.state.apply(draft)
    world.apply(spec("web:2", instances=instances, update={"strategy": "canary"}, autoscale=policy))
    assert (world.app.canary, world.app.task) == (2, ""), "no task of it ends"
    assert (world.app.changed_at == AT) is is_other


def test_a_promoted_canary_stays_and_the_others_are_replaced_one_by_one() -> None:
    world = tried(launched(), canary=2)
    canaries = {item.serial for item in world.placed if item.version == 2}
    assert len(canaries) == 2
    task = world.ask(steering.promote, PATH, "")
    assert task is not None
    for _ in range(100):
        world.decide()
        assert len(world.ready()) >= 3
        assert len([item for item in world.placed if not item.stop]) <= 3 + 2 + 1
        world.agent_step()
    assert versions(world) == [2, 2, 2]
    assert canaries <= {item.serial for item in world.placed}
    assert world.state.tasks[task.id].state is TaskState.SUCCEEDED
    assert (world.app.version, world.app.stable, world.app.canary, world.app.canary_task, world.app.task) == (2, 2, 0, "", "")


def test_the_task_of_the_update_is_the_one_that_is_promoted() -> None:
    world = tried(launched())
    update = world.last_task
    task = world.ask(steering.promote, PATH, "")
    assert task is not None
    assert task.id == update.id


def test_a_canary_is_promoted_by_itself_once_it_was_healthy_for_long_enough() -> None:
    world = tried(launched(), **AUTO)
    world.pass_time(59)
    world.settle()
    assert world.app.canary == 2
    world.pass_time(1.1)
    world.settle()
    assert versions(world) == [2, 2, 2]
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_new_leader_counts_the_time_of_a_canary_anew_and_goes_on() -> None:
    world = tried(launched(), **AUTO)
    world.pass_time(59)
    world.restart_coordinator()
    world.settle()
    world.pass_time(59)
    world.settle()
    assert world.app.canary == 2
    world.pass_time(1.1)
    world.settle()
    assert versions(world) == [2, 2, 2]


def test_a_canary_that_does_not_become_healthy_is_given_up_and_nothing_else_was_touched() -> None:
    world = tried(launched(), "web:bad")
    assert versions(world) == [1, 1, 1, 2]
    world.pass_time(121)
    world.settle()
    assert [item.serial for item in world.placed] == [1, 2, 3]
    task = world.last_task
    assert task.state is TaskState.FAILED
    assert task.message.startswith("the canary of version 2 is given up: an instance did not become healthy within 120 s: ")
    assert task.message.endswith("; version 1 was not touched")
    assert (world.app.canary, world.app.canary_task) == (0, "")


def test_a_canary_in_a_crash_loop_is_given_up_at_once_also_after_it_was_healthy() -> None:
    world = tried(launched())
    world.pass_time(10_000)
    name = f"web-{world.app.uid}-4"
    world.tracker.observed(world.view, [Observed(name, 5, Phase.FAILED, crash_loop=True, reason="exit code 3")], ())
    world.settle()
    assert [item.serial for item in world.placed] == [1, 2, 3]
    assert "is in a crash loop: exit code 3" in world.last_task.message


def test_a_canary_that_turns_bad_after_days_gets_the_time_that_every_instance_gets() -> None:
    world = tried(launched())
    world.pass_time(100_000)
    world.decide()
    seen = world.running[name := f"web-{world.app.uid}-4"]
    world.broken = frozenset({"web:2"})
    world.tracker.observed(world.view, [Observed(name, 2, Phase.RUNNING)], ())
    world.decide()
    world.pass_time(119)
    world.decide()
    assert world.app.canary == 2, seen
    world.pass_time(2)
    world.settle()
    assert versions(world) == [1, 1, 1]


def test_without_auto_rollback_a_bad_canary_stays_until_it_is_cancelled() -> None:
    world = tried(launched(), "web:bad", auto_rollback=False)
    world.pass_time(121)
    world.settle()
    assert versions(world) == [1, 1, 1, 2]
    assert world.last_task.state is TaskState.FAILED
    assert "it stays until `gestaltctl cancel /org/ws/env/web`" in world.last_task.message
    world.ask(steering.cancel, PATH)
    world.settle()
    assert versions(world) == [1, 1, 1]
    assert world.last_task.state is TaskState.SUCCEEDED


def test_a_canary_for_which_there_is_no_room_is_given_up_in_time_and_says_why() -> None:
    world = launched()
    world.capacities = ()
    tried(world)
    assert versions(world) == [1, 1, 1]
    world.pass_time(301)
    world.settle()
    assert "there was no progress for 300 s" in world.last_task.message
    assert world.app.canary == 0


@pytest.mark.parametrize(("share", "count"), [("10%", 1), ("25%", 3), ("100%", 10), ("4", 4)])
def test_the_number_of_canaries(share: str, count: int) -> None:
    world = tried(launched(10), instances=10, canary=share)
    assert versions(world).count(2) == count


def test_a_percentage_of_canaries_follows_the_number_of_instances() -> None:
    world = tried(launched(10), instances=10, canary="20%")
    for wanted, canaries in ((30, 6), (5, 1), (0, 0), (10, 2)):
        world.ask(changes.scale, PATH, wanted)
        world.settle()
        assert versions(world) == [1] * wanted + [2] * canaries
        assert world.last_task.kind is Verb.SCALE
        assert world.last_task.state is TaskState.SUCCEEDED
    assert world.app.canary == 2


def test_a_count_of_canaries_is_never_more_than_the_instances() -> None:
    world = tried(launched(3), canary=3)
    world.ask(changes.scale, PATH, 2)
    world.settle()
    assert versions(world) == [1, 1, 2, 2]


def test_a_newer_canary_takes_the_place_of_one_that_waits() -> None:
    world = tried(launched())
    first = world.last_task
    tried(world, "web:3")
    assert versions(world) == [1, 1, 1, 3]
    assert world.state.tasks[first.id].state is TaskState.SUPERSEDED
    assert world.state.tasks[first.id].message.startswith("superseded by update (task ")
    assert (world.app.version, world.app.canary) == (1, 3)


def test_a_rolling_update_takes_the_place_of_a_canary() -> None:
    world = tried(launched())
    world.apply(spec("web:3"))
    world.settle()
    assert versions(world) == [3, 3, 3]
    assert world.app.canary == 0


def test_a_canary_is_tried_beside_the_last_version_that_was_well_not_beside_half_an_update() -> None:
    world = launched()
    world.apply(spec("web:bad"))
    world.settle()
    assert 2 in versions(world)
    tried(world, "web:3")
    assert versions(world) == [1, 1, 1, 3]
    assert (world.app.version, world.app.canary) == (1, 3)


def test_an_update_to_the_wanted_version_drops_the_canary() -> None:
    world = tried(launched())
    world.apply(spec(instances=3))
    world.settle()
    assert versions(world) == [1, 1, 1]
    assert (world.last_task.kind, world.last_task.state) == (Verb.CANCEL, TaskState.SUCCEEDED)


def test_the_same_update_again_changes_nothing_and_with_another_count_it_scales() -> None:
    world = tried(launched())
    assert world.apply(spec("web:2", update={"strategy": "canary"})) is None
    tried(world, instances=4)
    assert versions(world) == [1, 1, 1, 1, 2]
    assert world.last_task.kind is Verb.SCALE


def test_what_has_nothing_to_protect_is_updated_at_once() -> None:
    world = World()
    tried(world, "web:1")
    assert (versions(world), world.app.version, world.app.canary) == ([1, 1, 1], 1, 0)
    world.ask(changes.stop, PATH)
    world.settle()
    tried(world, "web:2")
    assert (world.app.version, world.app.canary) == (2, 0)


@pytest.mark.parametrize("verb", [changes.stop, changes.delete])
def test_what_stops_all_stops_the_canary(verb: object) -> None:
    world = tried(launched())
    update = world.last_task
    world.ask(verb, PATH)
    world.settle()
    assert world.placed == ()
    assert world.state.tasks[update.id].state is TaskState.SUPERSEDED
    assert world.last_task.state is TaskState.SUCCEEDED


def test_what_was_stopped_with_a_canary_starts_without() -> None:
    world = tried(launched())
    world.ask(changes.stop, PATH)
    world.settle()
    world.ask(changes.start, PATH)
    world.settle()
    assert versions(world) == [1, 1, 1]


def test_a_restart_leaves_the_canary_alone_also_when_it_is_promoted() -> None:
    world = tried(launched())
    world.ask(changes.restart, PATH)
    world.settle()
    assert [(item.serial, item.version) for item in world.placed] == [(4, 2), (5, 1), (6, 1), (7, 1)]
    world.ask(steering.promote, PATH, "")
    world.settle()
    assert versions(world) == [2, 2, 2]
    assert 4 in {item.serial for item in world.placed}


def test_rollback_drops_the_canary_or_goes_further_back() -> None:
    world = launched()
    world.apply(spec("web:1b"))
    world.settle()
    tried(world)
    world.ask(changes.rollback, PATH, 0)
    world.settle()
    assert versions(world) == [2, 2, 2]
    tried(world, "web:3")
    world.ask(changes.rollback, PATH, 1)
    world.settle()
    assert versions(world) == [1, 1, 1]


def test_rollback_to_the_version_that_is_tried_makes_it_the_wanted_one() -> None:
    world = tried(launched())
    world.ask(changes.rollback, PATH, 2)
    world.settle()
    assert versions(world) == [2, 2, 2]
    assert 4 in {item.serial for item in world.placed}


def test_a_cancelled_canary_goes_although_others_are_not_well() -> None:
    world = tried(launched())
    seen = world.running[f"web-{world.app.uid}-1"]
    world.broken = frozenset({"web:1"})
    world.tracker.observed(world.view, [Observed(seen.instance, 1, Phase.RUNNING)], ())
    world.decide()
    world.ask(steering.cancel, PATH)
    assert [item.serial for item in world.placed if item.stop] == [4], "at once"
    world.settle()
    assert versions(world) == [1, 1, 1]


def fleet(count: int = 3, instances: int = 3, **fields: object) -> Fleet:
    found = Fleet(count, instances)
    found.settle()
    found.apply(spec("web:2", instances=instances, update={"strategy": "canary", **fields}))
    found.settle()
    return found


def test_a_lost_canary_is_replaced_by_another_and_a_lost_instance_by_one_of_the_wanted_version() -> None:
    world = fleet(4, 3)
    (canary,) = [item for item in world.placed if item.version == 2]
    world.lose(canary.node)
    world.heal()
    assert versions(world) == [1, 1, 1, 2]
    assert canary.serial not in {item.serial for item in world.placed}
    other = next(item for item in world.placed if item.version == 1)
    world.lose(other.node)
    world.heal()
    assert versions(world) == [1, 1, 1, 2]
    assert world.app.canary == 2


def test_lost_canaries_wait_for_the_brakes_as_all_others_do() -> None:
    world = fleet(4, 3)
    (canary,) = [item for item in world.placed if item.version == 2]
    world.replaceable = 0
    world.lose(canary.node)
    world.heal()
    assert versions(world) == sorted(item.version for item in world.placed)
    assert len(world.placed) == 4
    world.replaceable = 10
    world.heal()
    assert len(world.ready()) == 4


def test_a_canary_takes_no_room_that_a_lost_instance_needs() -> None:
    """While there is no node for what was lost, the canary is not started."""
    world = launched()
    world.capacities = ()
    for item in world.placed[:1]:
        world.tracker.observed(world.view, [Observed(f"web-{world.app.uid}-{item.serial}", 2, Phase.FAILED, port_taken=item.ports[0])], ())
    tried(world)
    assert versions(world) == [1, 1]
    assert world.trials.sentence(world.app, world.trial()).startswith(
        "canary: 0 of 1 healthy: the canary waits, the wanted version comes first"
    )


def test_draining_a_node_moves_canaries_as_well() -> None:
    world = fleet(4, 3)
    (canary,) = [item for item in world.placed if item.version == 2]
    world.state.nodes[canary.node] = Node(canary.node, canary.node, "draining", incarnation=1)
    world.settle()
    assert versions(world) == [1, 1, 1, 2]
    assert not world.on(canary.node)
    assert world.app.canary == 2


def test_a_migration_takes_canaries_along_and_ends_when_they_have_moved() -> None:
    world = fleet(4, 3)
    (canary,) = [item for item in world.placed if item.version == 2]
    world.ask(changes.migrate, PATH, world.state.nodes[canary.node], None)
    seen = []
    for _ in range(60):
        world.decide()
        assert sum(item.version == 2 for item in world.ready()) >= 1
        seen.append((world.last_task.state, bool(world.on(canary.node))))
        world.agent_step()
    assert not world.on(canary.node)
    assert versions(world) == [1, 1, 1, 2]
    assert world.last_task.state is TaskState.SUCCEEDED
    assert all(state is TaskState.RUNNING for state, there in seen if there)


@pytest.mark.parametrize(
    ("unready", "words"),
    [("0 of 1 canary is healthy", "version 2 of /org/ws/env/web cannot be promoted yet: 0 of 1 canary is healthy")],
)
def test_what_is_not_well_is_not_promoted(unready: str, words: str) -> None:
    world = tried(launched())
    with pytest.raises(GestaltError) as caught:
        world.ask(steering.promote, PATH, unready)
    assert (caught.value.kind, caught.value.message) == (Kind.REFUSED, words)
    assert world.app.canary == 2


def test_without_a_canary_there_is_nothing_to_promote() -> None:
    world = launched()
    with pytest.raises(GestaltError) as caught:
        world.ask(steering.promote, PATH, "")
    assert (caught.value.kind, caught.value.message) == (Kind.REFUSED, "/org/ws/env/web has no canary")


def test_a_canary_beside_an_exclusive_version_is_refused() -> None:
    world = World()
    world.apply(spec(instances=1, placement={"exclusive": True}))
    world.settle()
    before = world.app
    with pytest.raises(GestaltError) as caught:
        tried(world, instances=1)
    assert caught.value.kind is Kind.INVALID
    assert "update.strategy: is canary, but version 1 is exclusive" in caught.value.message
    assert world.app == before


def test_a_promoted_version_that_fails_is_rolled_back() -> None:
    world = tried(launched())
    world.ask(steering.promote, PATH, "")
    world.broken = frozenset({"web:2"})
    world.settle()
    world.pass_time(121)
    world.settle()
    assert versions(world) == [1, 1, 1]
    assert world.last_task.message.startswith("rolled back to version 1: ")
