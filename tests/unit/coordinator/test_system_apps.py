"""System apps: one instance on every node that matches, whatever joins, leaves, is cordoned, drained, lost, updated or interrupted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.capacity import NOT_CONNECTED
from gestalt.coordinator.records import Node, Placed, TaskState
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.state import Draft
from gestalt.errors import GestaltError
from gestalt.spec.schema import AppSpec
from tests.unit.coordinator.fleet import Fleet, Machine
from tests.unit.coordinator.world import PATH, spec

RACK_A = {"constraints": [{"attribute": "rack", "value": "a"}]}
BASE = {"path": PATH, "kind": "system", "ports": [{"name": "http", "container_port": 80}], "checks": [{"kind": "tcp", "grace": 0}]}


def system(image: str = "web:1", **fields: object) -> AppSpec:
    return AppSpec.model_validate({**BASE, "image": image} | fields)


class Everywhere(Fleet):
    """A system app on nodes of two racks, `odd` ones in rack a. `cores`: what is free on a node, 64 if it is not said."""

    def __init__(self, count: int = 4, **fields: object) -> None:
        self.cores: dict[str, float] = {}
        self.racks: dict[str, str] = {}
        super().__init__(count)
        self.ask(changes.delete, PATH)
        self.settle()
        self.broken = frozenset({"web:bad"})
        self.apply(system(**fields))  # type: ignore[arg-type]

    def _nodes(self) -> tuple[Capacity, ...]:
        return tuple(
            replace(
                item,
                cpu=self.cores.get(item.id, 64.0),
                ready=item.ready and item.id in self.state.nodes and self.state.nodes[item.id].admin == "ready",
                why_not=item.why_not or NOT_CONNECTED,
                attributes={"rack": self.racks.get(item.id, "a" if int(item.id[1:]) % 2 else "b")},
            )
            for item in super()._nodes()
        )

    def administer(self, name: str, admin: str) -> None:
        draft = Draft(self.state)
        draft.put_node(replace(self.state.nodes[name], admin=admin))
        self.state.apply(draft)

    def join(self, name: str) -> None:
        self.machines[name] = Machine()
        draft = Draft(self.state)
        draft.put_node(Node(name, name, incarnation=1))
        self.state.apply(draft)
        self.tracker.node(name, name)
        self._tell_member(name)
        self.machines[name].linked = False
        self.connect(name)

    @property
    def where(self) -> dict[str, int]:
        """The version on each node."""
        return {item.node: item.version for item in self.placed if not item.stop}


def everywhere(count: int = 4, **fields: object) -> Everywhere:
    world = Everywhere(count, **fields)
    world.settle()
    world.pass_time(2)
    world.settle()
    return world


def test_one_instance_starts_on_every_node() -> None:
    world = everywhere()
    assert world.where == {"n1": 1, "n2": 1, "n3": 1, "n4": 1}
    assert world.app.count == 4
    assert world.last_task.state is TaskState.SUCCEEDED
    assert world.last_task.message == "4 instances of version 1 are healthy"


def test_only_nodes_that_match_have_one() -> None:
    world = everywhere(placement=RACK_A)
    assert set(world.where) == {"n1", "n3"}
    assert world.app.count == 2


def test_a_node_that_joins_later_gets_one_and_no_other_is_touched() -> None:
    world = everywhere(2)
    before = set(world.placed)
    world.join("n3")
    world.settle()
    assert set(world.where) == {"n1", "n2", "n3"}
    assert before < set(world.placed)


def test_a_node_that_is_lost_keeps_its_place_and_nothing_starts_elsewhere() -> None:
    world = everywhere(3)
    before = world.placed
    world.lose("n2")
    world.heal()
    assert world.placed == before
    assert world.app.count == 2
    world.back("n2")
    world.settle()
    assert world.placed == before
    assert len(world.ready()) == 3


def test_what_was_on_a_node_that_left_is_forgotten() -> None:
    world = everywhere(3)
    world.lose("n2")
    world.state.nodes.pop("n2")
    del world.machines["n2"]
    world.settle()
    assert set(world.where) == {"n1", "n3"}


def test_a_cordoned_node_keeps_its_own_and_gets_none() -> None:
    world = everywhere(3)
    world.administer("n1", "cordoned")
    world.join("n4")
    world.administer("n4", "cordoned")
    world.settle()
    assert set(world.where) == {"n1", "n2", "n3"}
    world.apply(system("web:2"))
    world.settle()
    assert world.where == {"n1": 1, "n2": 2, "n3": 2}
    assert world.last_task.state is TaskState.SUCCEEDED
    assert "node n1 keeps version 1" in world.last_task.message
    world.administer("n1", "ready")
    world.administer("n4", "ready")
    world.settle()
    assert world.where == dict.fromkeys(("n1", "n2", "n3", "n4"), 2)


def test_a_drained_node_is_left() -> None:
    world = everywhere(3)
    world.administer("n3", "draining")
    world.settle()
    assert set(world.where) == {"n1", "n2"}
    assert not world.state.placed_on("n3")


def test_a_node_that_stops_to_match_is_left() -> None:
    world = everywhere(4, placement=RACK_A)
    world.racks["n3"] = "c"
    world.racks["n2"] = "a"
    world.settle()
    assert set(world.where) == {"n1", "n2"}


def test_a_runtime_that_is_away_for_a_moment_ends_nothing() -> None:
    world = everywhere(2)
    before = world.placed
    world.machines["n1"].agent = True
    nodes = tuple(replace(item, runtimes=frozenset()) for item in world._nodes())
    world._nodes = lambda: nodes  # type: ignore[method-assign]
    world.settle()
    assert world.placed == before


def test_a_new_leader_that_heard_nobody_moves_nothing_and_concludes_nothing() -> None:
    world = Everywhere(3)
    for machine in world.machines.values():
        machine.linked = False
    world.take_office()
    for name in world.machines:
        world.cut(name)
    world.decide()
    assert world.last_task.state is TaskState.RUNNING
    assert world.placed == ()


def test_a_node_without_room_is_told_and_nothing_waits_for_it() -> None:
    world = Everywhere(3, resources={"cpu": 2})
    world.cores["n2"] = 1.0
    world.settle()
    assert set(world.where) == {"n1", "n3"}
    assert world.app.count == 3
    assert world.last_task.state is TaskState.SUCCEEDED
    assert "not on node n2: it has 1 of 1 cores left, 2 are asked for" in world.last_task.message
    world.cores["n2"] = 8.0
    world.settle()
    assert set(world.where) == {"n1", "n2", "n3"}


def test_what_fits_nowhere_fails_and_says_so() -> None:
    world = Everywhere(2, resources={"cpu": 100})
    world.settle()
    assert world.last_task.state is TaskState.RUNNING
    world.pass_time(301)
    world.settle()
    assert world.last_task.state is TaskState.FAILED
    assert world.last_task.message.startswith("not on node n1: it has 64 of 64 cores left")


@pytest.mark.parametrize(("unavailable", "most"), [(None, 1), (2, 2), ("50%", 3), ("10%", 1)])
def test_an_update_goes_node_by_node(unavailable: object, most: int) -> None:
    update = {} if unavailable is None else {"max_unavailable": unavailable}
    world = everywhere(6, update=update)
    world.apply(system("web:2", update=update))
    away = 0
    for _ in range(100):
        world.decide()
        away = max(away, 6 - len({item.node for item in world.ready()}))
        world.agent_step()
    assert away == most
    assert set(world.where.values()) == {2}
    assert world.last_task.state is TaskState.SUCCEEDED


def test_an_update_that_fails_goes_back_and_takes_no_more_nodes_than_it_may() -> None:
    world = everywhere(4)
    world.apply(system("web:bad"))
    for _ in range(8):
        world.settle()
        assert len(world.ready()) >= 3
        world.pass_time(121)
    assert world.last_task.state is TaskState.FAILED
    assert world.last_task.message.startswith("rolled back to version 1")
    assert len(world.ready()) == 4
    assert set(world.where.values()) == {1}


def test_an_update_that_does_not_fit_stops_nothing() -> None:
    world = everywhere(2)
    before = world.placed
    world.cores["n2"] = 1.0
    world.apply(system("web:2", resources={"cpu": 2}))
    world.settle()
    assert world.where == {"n1": 2, "n2": 1}
    world.pass_time(301)
    world.settle()
    assert "node n2 keeps version 1: it has " in world.last_task.message
    assert [item for item in before if item.node == "n2"] == [item for item in world.placed if item.node == "n2"]
    assert set(world.where.values()) == {1}


def test_stop_start_restart_and_delete_reach_every_node() -> None:
    world = everywhere(3)
    world.ask(changes.stop, PATH)
    world.settle()
    assert world.placed == ()
    assert world.last_task.state is TaskState.SUCCEEDED
    world.ask(changes.start, PATH)
    world.settle()
    before = {item.serial for item in world.placed}
    world.ask(changes.restart, PATH)
    world.settle()
    assert len(world.ready()) == 3
    assert before.isdisjoint(item.serial for item in world.placed)
    world.lose("n1")
    world.ask(changes.delete, PATH)
    world.settle()
    assert PATH not in world.state.apps


@pytest.mark.parametrize("change", [(changes.scale, PATH, 5), (changes.migrate, PATH, Node("n1", "n1"), None)])
def test_nobody_says_how_many_or_where(change: tuple[object, ...]) -> None:
    world = everywhere(2)
    with pytest.raises(GestaltError, match="is a system app and cannot be"):
        world.ask(*change)


def test_an_app_keeps_its_kind() -> None:
    world = everywhere(2)
    with pytest.raises(GestaltError, match="which cannot become a service; allowed: system"):
        world.apply(spec("web:2"))


def test_the_same_description_again_changes_nothing() -> None:
    world = everywhere(3)
    assert world.apply(system()) is None


def test_an_update_that_reaches_no_node_is_not_done_until_one_is_back_and_is_undone_if_it_is_bad() -> None:
    world = everywhere(2)
    for name in world.machines:
        world.lose(name)
    world.apply(system("web:bad"))
    world.settle()
    assert world.app.task, "it has proved nothing yet"
    world.back("n1")
    world.settle()
    world.pass_time(301)
    world.settle()
    world.back("n2")
    world.settle()
    assert [item.version for item in world.ready()] == [1, 1]


HAPPENINGS = ["decide", "agent", "time", "restart", "lose", "back", "cordon", "uncordon", "drain", "update", "stop", "start", "join"]


def happen(world: Everywhere, what: str, which: int) -> None:
    names = sorted(world.machines)
    name = names[which % len(names)]
    match what:
        case "lose":
            world.lose(name, dead=bool(which % 2))
        case "back":
            world.back(name)
        case "cordon" | "uncordon" | "drain":
            world.administer(name, {"cordon": "cordoned", "uncordon": "ready", "drain": "draining"}[what])
        case "update":
            world.apply(system(("web:2", "web:bad", "web:3")[which % 3]))
        case "stop" | "start":
            world.ask(changes.stop if what == "stop" else changes.start, PATH)
        case "join" if len(names) < 6:
            world.join(f"n{len(names) + 1}")
        case _:
            world.happen(what, which)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 20)), max_size=40))
def test_no_node_ever_has_two_and_in_the_end_each_has_the_one_that_it_should(happenings: list[tuple[str, int]]) -> None:
    world = everywhere(3)

    def never_two() -> None:
        assert max(Counter(item.node for item in world.placed).values(), default=0) <= 1

    for what, which in happenings:
        happen(world, what, which)
        never_two()
    for name in world.machines:
        world.back(name)
        world.administer(name, "ready")
    for _ in range(6):
        world.settle()
        never_two()
        world.pass_time(301)
    wanted = set() if world.app.stopped else set(world.machines)
    assert {item.node for item in world.ready()} == wanted
    assert {item.version for item in world.placed} <= {world.app.version}
    assert not world.app.task


def test_a_placed_instance_is_as_any_other() -> None:
    world = everywhere(1)
    (item,) = world.placed
    assert item == Placed(item.serial, 1, "n1", item.ports)
    assert item.ports
