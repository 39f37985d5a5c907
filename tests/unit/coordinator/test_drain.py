"""Nodes that drain: everything moves, nothing is missing meanwhile, and whatever comes in between ends in an allowed state."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes, drain
from gestalt.coordinator.changes import Asked
from gestalt.coordinator.records import Node, Task, TaskState, Verb
from gestalt.coordinator.scheduler.values import Capacity
from gestalt.coordinator.state import Draft
from gestalt.errors import GestaltError
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.world import AT, PATH, spec


def begin(fleet: Fleet, name: str, number: int = 1, limits: drain.Limits = drain.AS_IT_IS) -> Task | None:
    draft = Draft(fleet.state)
    life = fleet.tracker.standing(name).life
    task = drain.begin(draft, fleet.state.nodes[name], life, Asked("tester", AT, 0, f"drain{number}", "abcdef"), limits)
    fleet.state.apply(draft)
    return task


def mark(fleet: Fleet, name: str, admin: str) -> None:
    draft = Draft(fleet.state)
    before = fleet.state.nodes[name]
    draft.put_node(drain.given_up(draft, before, replace(before, admin=admin), "uncordon", AT))
    fleet.state.apply(draft)


def conclude(fleet: Fleet) -> None:
    """What the leader notes from time to time."""
    draft = Draft(fleet.state)
    drain.conclude(draft, drain.done(fleet.state), AT)
    fleet.state.apply(draft)


def homes(fleet: Fleet) -> Counter[str]:
    return Counter(item.node for item in fleet.placed)


def least_ready(fleet: Fleet) -> int:
    """Let both sides go on one step at a time until nothing changes; return the fewest instances that served at any time."""
    least = len(fleet.ready())
    for _ in range(500):
        before = (fleet.placed, {name: dict(machine.running) for name, machine in fleet.machines.items()})
        fleet.decide()
        least = min(least, len(fleet.ready()))
        fleet.agent_step()
        least = min(least, len(fleet.ready()))
        if before == (fleet.placed, {name: machine.running for name, machine in fleet.machines.items()}):
            return least
    raise AssertionError(f"no end: {fleet.placed}")


def test_a_drain_moves_everything_and_nothing_is_missing_meanwhile() -> None:
    fleet = settled(3, 6)
    task = begin(fleet, "n1")
    assert task is not None
    assert (task.kind, task.node, task.steps[0].total) == (Verb.DRAIN, "n1", 2)
    assert least_ready(fleet) >= 6
    assert homes(fleet) == {"n2": 3, "n3": 3}
    conclude(fleet)
    assert fleet.state.nodes["n1"].admin == "drained"
    ended = fleet.state.tasks[task.id]
    assert (ended.state, ended.message) == (TaskState.SUCCEEDED, "nothing runs on n1 any more")
    assert (ended.steps[0].done, ended.steps[0].state) == (2, "done")
    mark(fleet, "n1", "ready")
    fleet.settle()
    assert homes(fleet) == {"n2": 3, "n3": 3}, "nobody is moved back"


def test_a_drain_is_not_done_before_the_agent_says_that_everything_is_gone() -> None:
    fleet = settled(2, 2)
    begin(fleet, "n1")
    for _ in range(30):
        fleet.decide()
        if any(item.stop for item in fleet.placed):
            break
        fleet.agent_step()
    assert drain.done(fleet.state) == []
    fleet.settle()
    assert [node.id for node in drain.done(fleet.state)] == ["n1"]


def test_a_drain_that_is_ended_keeps_what_is_still_there() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, "n1")
    assert task is not None
    fleet.decide()
    mark(fleet, "n1", "ready")
    assert fleet.state.tasks[task.id].state is TaskState.SUPERSEDED
    assert fleet.state.nodes["n1"].drain == ""
    assert least_ready(fleet) >= 3
    assert homes(fleet)["n1"] == 1


def test_two_drains_at_once_leave_everything_on_the_third() -> None:
    fleet = settled(3, 3)
    begin(fleet, "n1", 1)
    begin(fleet, "n2", 2)
    assert least_ready(fleet) >= 3
    assert homes(fleet) == {"n3": 3}
    conclude(fleet)
    assert {fleet.state.nodes[name].admin for name in ("n1", "n2")} == {"drained"}


@pytest.mark.parametrize(("source", "target", "expected"), [
    ("n1", "", {"n2": 3, "n3": 3}), ("n1", "n2", {"n2": 4, "n3": 2}), ("", "n3", {"n3": 6}),
])  # fmt: skip
def test_a_migration_moves_what_is_asked_for_and_nothing_is_missing_meanwhile(source: str, target: str, expected: dict[str, int]) -> None:
    fleet = settled(3, 6)
    nodes = fleet.state.nodes
    task = fleet.ask(changes.migrate, PATH, nodes.get(source), nodes.get(target))
    assert task is not None
    assert least_ready(fleet) >= 6
    assert homes(fleet) == expected
    assert (fleet.state.tasks[task.id].state, fleet.app.moving, fleet.app.target) == (TaskState.SUCCEEDED, (), "")


def test_a_migration_to_where_it_does_not_become_healthy_leaves_all_as_it_was() -> None:
    fleet = settled(2, 2)
    before = fleet.placed
    fleet.broken = frozenset({"web:1"})
    fleet.ask(changes.migrate, PATH, fleet.state.nodes["n1"], None)
    for _ in range(4):
        assert least_ready(fleet) >= 2
        fleet.pass_time(130)
    assert fleet.last_task.state is TaskState.FAILED
    assert "did not become healthy within 120 s" in fleet.last_task.message
    assert fleet.placed == before


class Narrow(Fleet):
    """Only n1 has room for anything."""

    def _nodes(self) -> tuple[Capacity, ...]:
        return tuple(item if item.name == "n1" else replace(item, cpu=0.0) for item in super()._nodes())


def test_what_finds_no_room_stays_and_fails_no_change() -> None:
    fleet = Narrow(2, 2)
    fleet.settle()
    begin(fleet, "n1")
    fleet.apply(spec("web:2", instances=2))
    for _ in range(4):
        fleet.settle()
        fleet.pass_time(400)
    assert homes(fleet) == {"n1": 2}
    assert len(fleet.ready()) == 2
    assert fleet.last_task.state is TaskState.RUNNING, "an update that waits for a node is not to blame"
    assert drain.done(fleet.state) == []


def test_what_may_be_missing_in_an_update_is_not_missing_for_a_drain() -> None:
    fleet = Narrow(2, 1, update={"max_surge": "0", "max_unavailable": "1"})
    fleet.settle()
    begin(fleet, "n1")
    assert least_ready(fleet) == 1
    assert homes(fleet) == {"n1": 1}


def test_a_drain_in_an_update_by_blue_and_green_ends() -> None:
    fleet = settled(4, 3, update={"strategy": "blue_green"})
    fleet.apply(spec("web:2", instances=3, update={"strategy": "blue_green"}))
    for _ in range(4):
        fleet.decide()
        fleet.agent_step()
    for name in ("n1", "n2"):
        begin(fleet, name, int(name[1]))
        assert least_ready(fleet) >= 3
    assert {item.version for item in fleet.placed} == {2}
    assert homes(fleet).keys() == {"n3", "n4"}


def test_a_node_that_is_lost_while_it_drains_is_replaced_at_once() -> None:
    fleet = settled(3, 3)
    task = begin(fleet, "n1")
    fleet.lose("n1")
    fleet.settle()
    assert homes(fleet)["n1"] == 0
    assert len(fleet.ready()) == 3
    conclude(fleet)
    assert task is not None
    assert fleet.state.tasks[task.id].message == "node n1 is lost: what ran there was given up and is replaced"


def test_an_agent_that_is_away_for_a_moment_does_not_turn_a_drain_back() -> None:
    fleet = settled(3, 3)
    begin(fleet, "n1")
    fleet.agent_down("n1")
    fleet.settle()
    fleet.back("n1")
    assert least_ready(fleet) >= 3
    assert homes(fleet)["n1"] == 0


def test_a_drain_is_refused_where_it_means_nothing() -> None:
    fleet = settled(2, 2)
    fleet.lose("n1")
    with pytest.raises(GestaltError, match="n1 is lost: what ran there runs elsewhere already"):
        begin(fleet, "n1")
    alone = settled(1, 1)
    with pytest.raises(GestaltError, match="n1 is the only node: there is nowhere to go"):
        begin(alone, "n1")


def test_a_drain_that_is_asked_for_again_is_the_same() -> None:
    fleet = settled(3, 3)
    first = begin(fleet, "n1", 1)
    assert begin(fleet, "n1", 2) == first
    fleet.settle()
    conclude(fleet)
    assert begin(fleet, "n1", 3) is None


def test_steps_name_what_is_waited_for() -> None:
    task = Task("t", Verb.DRAIN, "", "me", AT, steps=(), node="n1")
    left = {"web-1": "/o/w/e/web", "web-2": "/o/w/e/web", "a-1": "/o/w/e/a", "b-1": "/o/w/e/b", "c-1": "/o/w/e/c"}
    (step,) = drain.steps(task, Node("n1", "n1"), left, {"/o/w/e/a": "no room"})
    assert (step.state, step.done, step.total) == ("running", 0, 5)
    assert step.message == "waits for /o/w/e/a: no room; /o/w/e/b; /o/w/e/c; 1 more apps"
    (step,) = drain.steps(replace(task, steps=(replace(step, total=7),)), Node("n1", "n1"), {"a-1": "/o/w/e/a"}, {})
    assert (step.done, step.total, step.message) == (6, 7, "waits for /o/w/e/a")


def test_a_node_that_is_removed_ends_its_drain() -> None:
    fleet = settled(2, 2)
    task = begin(fleet, "n1")
    assert task is not None
    mark(fleet, "n1", "removed")
    assert fleet.state.tasks[task.id].message == "superseded by uncordon"
    assert drain.given_up(Draft(fleet.state), Node("x", "x"), Node("x", "x", admin="cordoned"), "cordon", AT).admin == "cordoned"


def happen(fleet: Fleet, event: str, name: str, number: int) -> None:
    """Let one thing come in between."""
    match event:
        case "drain" if fleet.state.nodes[name].admin == "ready":
            begin(fleet, name, number)
        case "undrain":
            mark(fleet, name, "ready")
        case "leader":
            fleet.take_office()
        case "down":
            fleet.agent_down(name)
        case "back":
            fleet.back(name)
        case "update":
            fleet.apply(spec(f"web:{number + 2}", instances=fleet.app.count))
        case "scale":
            fleet.ask(changes.scale, PATH, 2 + number % 5)


_EVENTS = st.sampled_from(["drain", "undrain", "leader", "down", "back", "step", "update", "scale"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_EVENTS, st.sampled_from(["n1", "n2"])), max_size=25))
def test_whatever_comes_in_between_nothing_healthy_is_stopped_too_early(story: list[tuple[str, str]]) -> None:
    fleet = settled(4, 4)
    for number, (event, name) in enumerate(story):
        happen(fleet, event, name, number)
        serving = len(fleet.ready())
        fleet.decide()
        assert len(fleet.ready()) >= min(serving, fleet.app.count), f"{event}: {fleet.placed}"
        fleet.agent_step()
        conclude(fleet)
    for name in fleet.machines:
        fleet.back(name)
    fleet.heal()
    conclude(fleet)
    assert len(fleet.ready()) == fleet.app.count == len(fleet.placed)
    for name, node in fleet.state.nodes.items():
        assert node.admin in ("ready", "drained")
        assert node.admin == "ready" or homes(fleet)[name] == 0
