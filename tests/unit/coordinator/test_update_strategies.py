"""Updates by `recreate` and `blue_green`: which versions are there, and which get requests, at every step and whatever comes in between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.records import App, Placed, TaskState, Version
from gestalt.coordinator.routes import Routed, route
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.model import Observed, Phase
from tests.unit.coordinator.fleet import Fleet
from tests.unit.coordinator.world import PATH, World, spec

BROKEN = frozenset({"web:bad"})


def launched(count: int, strategy: str) -> World:
    world = World(broken=BROKEN)
    update(world, "web:1", count, strategy)
    world.settle()
    return world


def update(world: World, image: str, count: int, strategy: str) -> None:
    world.apply(spec(image, instances=count, update={"strategy": strategy}))


def asked(world: World) -> list[int]:
    """Return the versions of the instances that get requests, one for each."""
    ready = {item.serial for item in world.placed if world._observed(item).ready}
    version = {number.number: number for number in world.state.versions_of(PATH)}
    routed = [Routed(item, version[item.version], "10.0.0.1", item.serial in ready) for item in world.placed]
    (found,) = route(world.app, version[world.app.version], routed)
    owner = {server.instance: server for server in found.servers if server.ready and not server.drain}
    return [item.version for item in world.placed if any(name.endswith(f"-{item.serial}") for name in owner)]


def end(world: World) -> None:
    for _ in range(6):
        world.settle()
        world.pass_time(301)


def test_recreate_has_the_old_ones_gone_before_it_starts_anything() -> None:
    world = launched(3, "recreate")
    update(world, "web:2", 3, "recreate")
    world.decide()
    assert all(item.stop for item in world.placed)
    for _ in range(2):
        world.agent_step()
        world.decide()
        assert {item.version for item in world.placed} == {1}
    world.settle()
    assert [item.version for item in world.placed] == [2, 2, 2]
    assert world.last_task.state is TaskState.SUCCEEDED


def test_recreate_that_fails_is_put_back() -> None:
    world = launched(2, "recreate")
    update(world, "web:bad", 2, "recreate")
    end(world)
    assert world.last_task.message.startswith("rolled back to version 1")
    assert [item.version for item in world.placed] == [1, 1]
    assert len(world.ready()) == 2


def test_blue_and_green_stand_side_by_side_and_requests_change_over_at_once() -> None:
    world = launched(3, "blue_green")
    update(world, "web:2", 3, "blue_green")
    seen = []
    for _ in range(60):
        world.decide()
        seen.append(tuple(asked(world)))
        world.agent_step()
    assert list(dict.fromkeys(seen)) == [(1, 1, 1), (2, 2, 2)]
    assert [item.version for item in world.placed] == [2, 2, 2]


def test_a_green_that_fails_goes_and_blue_was_never_touched() -> None:
    world = launched(3, "blue_green")
    update(world, "web:bad", 3, "blue_green")
    for _ in range(40):
        world.decide()
        world.agent_step()
        assert asked(world) == [1, 1, 1]
    end(world)
    assert [item.serial for item in world.placed] == [1, 2, 3]
    assert "rolled back to version 1" in world.last_task.message


def test_scaling_and_restarting_go_one_by_one_whatever_the_strategy() -> None:
    for strategy in ("recreate", "blue_green"):
        world = launched(3, strategy)
        world.ask(changes.restart, PATH)
        for _ in range(60):
            world.decide()
            assert len(world.ready()) >= 3
            assert len([item for item in world.placed if not item.stop]) <= 4
            world.agent_step()
        assert [item.serial for item in world.placed] == [4, 5, 6]


def test_fewer_greens_than_blues_stand_beside_them() -> None:
    world = launched(10, "blue_green")
    update(world, "web:2", 4, "blue_green")
    world.settle()
    assert [item.version for item in world.placed] == [2] * 4
    assert world.last_task.state is TaskState.SUCCEEDED


def test_greens_that_gave_way_go_and_blue_serves_until_the_next_ones_are_there() -> None:
    world = launched(3, "blue_green")
    update(world, "web:2", 3, "blue_green")
    for _ in range(5):
        world.decide()
        world.agent_step()
    update(world, "web:3", 3, "blue_green")
    seen, waiting = set(), []
    for _ in range(60):
        world.decide()
        seen.add(tuple(asked(world)))
        waiting += [{item.version for item in world.placed}] if asked(world)[0] == 1 else []
        world.agent_step()
    assert seen == {(1, 1, 1), (3, 3, 3)}
    assert waiting[-1] == {1, 3}, "they take no room until all of the next ones are there"
    assert [item.version for item in world.placed] == [3, 3, 3]


def test_what_gives_way_after_the_change_over_goes_on_serving() -> None:
    """Blue is leaving already: the green that serves is the stable one, and the next update goes back to it."""
    world = launched(2, "blue_green")
    update(world, "web:2", 2, "blue_green")
    while not all(item.stop for item in world.placed if item.version == 1):
        world.decide()
        world.agent_step()
    update(world, "web:bad", 2, "blue_green")
    for _ in range(20):
        world.decide()
        assert asked(world) == [2, 2]
        world.agent_step()
    end(world)
    assert [item.version for item in world.placed] == [2, 2]


@pytest.mark.parametrize("strategy", ["rolling", "blue_green"])
def test_a_version_that_was_well_for_a_moment_is_undone_when_it_fails_before_the_update_is_done(strategy: str) -> None:
    world = launched(2, strategy)
    update(world, "web:2", 2, strategy)
    while sum(item.version == 2 and not item.stop for item in world.ready()) < 2:
        world.decide()
        world.agent_step()
    world.decide()
    assert world.app.stable == 2
    assert any(item.version == 1 for item in world.placed), "the old ones are leaving"
    world.broken = frozenset({"web:2"})
    for item in world.placed:
        if item.version == 2:
            seen = Observed(f"web-{world.app.uid}-{item.serial}", 2, Phase.FAILED, reason="it dies", crash_loop=True)
            world.running[seen.instance] = seen
            world.tracker.observed(world.view, [seen], ())
    end(world)
    assert world.last_task.state is TaskState.FAILED
    assert "rolled back to version 1" in world.last_task.message
    assert [item.version for item in world.ready()] == [1, 1]
    assert asked(world) == [1, 1]


def test_with_a_fixed_port_all_that_are_ready_serve() -> None:
    fixed = [{"name": "http", "container_port": 80, "host_port": 3500, "http": {}}]
    described = spec(ports=fixed, update={"strategy": "blue_green"})
    app = App(PATH, "abcdef", 1, 2, 1, 2, 2, "")
    versions = [Version(PATH, number, "", described, "", "") for number in (1, 2)]
    routed = [Routed(Placed(n, n, f"n{n}", (3500,)), versions[n - 1], f"10.0.0.{n}", ready=True) for n in (1, 2)]
    (found,) = route(app, versions[1], routed)
    assert [server.ready for server in found.servers] == [True, True]


class Tight(Fleet):
    """Each node has room for two."""

    def _nodes(self) -> tuple[Capacity, ...]:
        return tuple(replace(item, cpu=0.0) if len(self.on(item.name)) >= 2 else item for item in super()._nodes())


def test_greens_that_are_undone_make_room_for_blues_that_were_lost() -> None:
    fleet = Tight(3, 3, update={"strategy": "blue_green"})
    fleet.settle()
    fleet.broken = BROKEN
    fleet.apply(spec("web:bad", update={"strategy": "blue_green"}))
    fleet.settle()
    assert len(fleet.placed) == 6
    fleet.lose("n1")
    for _ in range(4):
        fleet.settle()
        fleet.pass_time(130)
    assert [item.version for item in fleet.ready()] == [1, 1, 1]
    assert len(fleet.placed) == 3


def test_the_way_back_is_that_of_the_way_there() -> None:
    """The version before was rolling; the one that fails must not run beside it."""
    world = launched(2, "rolling")
    update(world, "web:bad", 2, "recreate")
    for _ in range(400):
        world.decide()
        world.agent_step()
        world.pass_time(2)
        assert len({item.version for item in world.placed}) <= 1
    assert [item.version for item in world.placed] == [1, 1]
    assert "rolled back" in world.last_task.message


def test_with_a_fixed_port_blue_and_green_cannot_stand_side_by_side() -> None:
    fixed = [{"name": "http", "container_port": 80, "host_port": 3500, "http": {}}]
    world = World()
    for image in ("web:1", "web:2"):
        world.apply(spec(image, instances=1, ports=fixed, update={"strategy": "blue_green"}))
        world.settle()
    assert [item.version for item in world.placed] == [2]
    assert world.last_task.state is TaskState.SUCCEEDED


STEPS = st.lists(st.tuples(st.sampled_from(["decide", "agent", "agent", "restart", "time", "other"]), st.integers(0, 9)), max_size=60)


@settings(max_examples=100)
@given(STEPS, st.sampled_from(["web:2", "web:bad"]), st.integers(1, 4), st.sampled_from(["recreate", "blue_green"]))
def test_an_update_interrupted_anywhere_keeps_what_its_strategy_promises(
    steps: list[tuple[str, int]], image: str, count: int, strategy: str
) -> None:
    world = launched(count, strategy)
    update(world, image, count, strategy)
    for what, which in steps:
        if what == "other":
            update(world, f"web:{which + 3}", count, strategy)
        world.happen(what, which)
        requested = asked(world)
        assert len(set(requested)) <= 1, requested
        if strategy == "blue_green":
            assert len(requested) >= count
        else:
            assert len({item.version for item in world.placed}) <= 1
    end(world)
    assert len(world.ready()) == count == len(world.placed)
    assert {item.version for item in world.placed} == {world.app.version}
    assert asked(world) == [world.app.version] * count
