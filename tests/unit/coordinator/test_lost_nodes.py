"""Nodes that are lost, cut off and come back: instances are replaced, counted again, and never all gone through our own doing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.brakes import UNLIMITED
from gestalt.coordinator.reconcile import Outcome
from gestalt.coordinator.records import Task, TaskState, Verb
from tests.unit.coordinator.fleet import Fleet, settled
from tests.unit.coordinator.world import PATH, spec

FIXED = [{"name": "http", "container_port": 80, "host_port": 3500}]


def test_a_lost_nodes_instances_are_replaced_at_once_and_forgotten_when_the_new_ones_are_healthy() -> None:
    fleet = settled()
    (lost,) = fleet.on("n1")
    fleet.lose("n1")
    decision = fleet.decide()
    assert decision is not None
    assert (decision.start, decision.replacing) == (1, 1)
    assert fleet.on("n1") == [lost], "it is not forgotten before its replacement is healthy"
    fleet.settle()
    assert fleet.on("n1") == []
    assert len(fleet.ready()) == 3 == len(fleet.placed)


def failovers(fleet: Fleet) -> list[Task]:
    return [task for task in fleet.state.tasks.values() if task.kind is Verb.FAILOVER]


def test_a_failover_is_a_task_from_the_commit_that_places_to_the_health_of_all() -> None:
    fleet = settled()
    fleet.lose("n1")
    fleet.decide()
    (task,) = failovers(fleet)
    assert (task.state, fleet.app.task, task.requested_by) == (TaskState.RUNNING, task.id, "leader")
    assert task.message == "1 instance of node n1 is replaced"
    fleet.take_office()
    fleet.settle()
    (task,) = failovers(fleet)
    assert (task.state, fleet.app.task) == (TaskState.SUCCEEDED, "")
    assert task.message == "1 instance of node n1 is replaced; 3 instances of version 1 are healthy"
    assert [(step.name, step.state, step.done) for step in task.steps] == [
        ("place", "done", 3), ("start", "done", 3), ("healthy", "done", 3), ("stop others", "done", 0),
    ]  # fmt: skip


def test_a_second_loss_joins_the_failover_that_is_under_way() -> None:
    fleet = settled(5, 5)
    fleet.lose("n1")
    fleet.decide()
    fleet.lose("n2")
    fleet.settle()
    (task,) = failovers(fleet)
    assert task.state is TaskState.SUCCEEDED  # the first replacement was placed on the second node
    assert task.message.startswith("3 instances of nodes n1, n2 are replaced; 5 instances")


def test_a_failover_within_a_change_is_part_of_it_and_a_change_supersedes_a_failover() -> None:
    fleet = settled()
    fleet.apply(spec("web:2"))
    fleet.decide()
    fleet.lose("n1")
    fleet.settle()
    assert failovers(fleet) == []
    fleet.back("n1")
    fleet.settle()
    fleet.lose("n2")
    fleet.decide()
    fleet.apply(spec("web:3"))
    (task,) = failovers(fleet)
    assert task.state is TaskState.SUPERSEDED
    fleet.settle()
    assert fleet.last_task.state is TaskState.SUCCEEDED
    assert {item.version for item in fleet.placed} == {3}


def test_a_failover_that_fails_goes_back_to_no_other_version_and_is_told() -> None:
    fleet = settled(2, 2)
    fleet.apply(spec("web:2", 2, update={"auto_rollback": True}))
    fleet.settle()
    fleet.broken = frozenset({"web:2"})
    fleet.lose("n1")
    fleet.decide()
    fleet.agent_step()
    fleet.pass_time(10_000)
    fleet.settle()
    (task,) = failovers(fleet)
    assert task.state is TaskState.FAILED
    assert task.message.startswith("1 instance of node n1 is replaced; an instance did not become healthy within")
    assert fleet.app.version == 2
    assert fleet.app.wanted == 2 == len(fleet.placed) - len(fleet.on("n1")), "it goes on trying"


def test_nothing_is_replaced_while_an_agent_is_down() -> None:
    fleet = settled()
    before = fleet.placed
    fleet.agent_down("n1")
    fleet.pass_time(10_000)
    decision = fleet.decide()
    assert decision is not None
    assert fleet.placed == before
    assert math.isinf(decision.wake_in)


def test_an_unreachable_node_is_given_up_after_failover_after_and_not_a_moment_before() -> None:
    fleet = settled(placement={"failover_after": 30})
    fleet.cut("n1")
    fleet.pass_time(4)
    decision = fleet.decide()
    assert decision is not None
    assert decision.wake_in == pytest.approx(30)
    fleet.pass_time(29.9)
    fleet.settle()
    assert len(fleet.placed) == 3
    fleet.pass_time(0.2)
    fleet.settle()
    assert fleet.on("n1") == []
    assert len(fleet.ready()) == 3


def test_a_node_that_comes_back_keeps_its_copies_and_replacements_that_are_not_healthy_are_cancelled() -> None:
    fleet = settled()
    (old,) = fleet.on("n1")
    fleet.lose("n1", dead=False)
    fleet.decide()
    fleet.rejoin("n1")
    fleet.decide()
    assert not any(item.stop for item in fleet.placed), "what it has is not known yet"
    fleet.connect("n1")
    fleet.settle()
    assert [item.serial for item in fleet.placed] == [1, 2, 3]
    assert fleet.on("n1") == [old]


def test_a_node_that_comes_back_empty_cancels_nothing_that_is_healthy() -> None:
    fleet = settled()
    (old,) = fleet.on("n1")
    fleet.lose("n1")
    fleet.decide()
    fleet.rejoin("n1")
    while len(fleet.ready()) < 3:
        fleet.agent_step()
    fleet.connect("n1")
    fleet.decide()
    assert old not in [item.serial for item in fleet.placed if not item.stop]
    assert len(fleet.ready()) == 3


def test_a_copy_that_comes_back_last_ousts_no_steady_one_and_one_that_is_too_much_stops() -> None:
    fleet = settled(2, 1)
    first = fleet.placed[0].node
    fleet.lose(first, dead=False)
    while len(fleet.ready()) < 2:
        fleet.decide()
        fleet.agent_step()
    fleet.back(first)
    fleet.settle()
    assert len(fleet.ready()) == 1 == len(fleet.placed)


def test_an_update_goes_on_while_a_node_is_lost_and_is_not_rolled_back() -> None:
    fleet = settled()
    fleet.apply(spec("web:2"))
    fleet.decide()
    fleet.agent_step()
    fleet.lose("n1")
    fleet.settle()
    assert fleet.last_task.state is TaskState.SUCCEEDED
    assert {item.version for item in fleet.placed} == {2}
    assert len(fleet.ready()) == 3


def test_a_change_that_waits_for_a_node_does_not_fail_for_want_of_progress() -> None:
    fleet = settled(2, 2, ports=FIXED)
    fleet.apply(spec("web:2", 2, ports=FIXED))
    fleet.decide()
    fleet.lose("n1")
    fleet.lose("n2")
    for _ in range(5):
        fleet.pass_time(301)
        decision = fleet.decide()
        assert decision is not None
        assert decision.outcome is Outcome.GOING_ON
    fleet.back("n1")
    fleet.back("n2")
    fleet.heal()
    assert fleet.last_task.state is TaskState.SUCCEEDED
    assert {item.version for item in fleet.placed} == {2}


def test_a_fixed_port_does_not_wait_for_the_lost_instance() -> None:
    fleet = settled(2, 1, ports=FIXED)
    first = fleet.placed[0].node
    fleet.lose(first)
    fleet.settle()
    assert [item.node for item in fleet.placed] == [({"n1", "n2"} - {first}).pop()]


@pytest.mark.parametrize("verb", [changes.stop, changes.delete])
def test_an_app_of_a_lost_node_can_be_stopped_and_deleted(verb: object) -> None:
    fleet = settled()
    fleet.lose("n1", dead=False)
    fleet.ask(verb, PATH)
    fleet.settle()
    assert fleet.placed == ()
    assert fleet.last_task.state is TaskState.SUCCEEDED
    fleet.back("n1")
    assert not fleet.machines["n1"].running, "the agent removes what it is not told of"


def test_a_removed_nodes_instances_run_elsewhere() -> None:
    fleet = settled()
    del fleet.state.nodes["n1"]
    fleet.machines["n1"].linked = False
    fleet.tracker.disconnected(fleet.view_of("n1"))
    fleet.settle()
    assert fleet.on("n1") == []
    assert len(fleet.placed) == 3


def test_a_new_leader_replaces_nothing_of_members_before_it_heard_them_or_gave_them_up() -> None:
    fleet = settled()
    before = fleet.placed
    for name in fleet.machines:
        fleet.cut(name)
    fleet.take_office()
    for seconds in (0, 3.9, 60):
        fleet.pass_time(seconds)
        fleet.decide()
        assert fleet.placed == before
    fleet.back("n1")
    fleet.back("n2")
    fleet.pass_time(0.2)
    fleet.settle()
    assert fleet.on("n3") == []
    assert len(fleet.ready()) == 3


def test_a_new_leader_replaces_at_once_what_has_no_membership() -> None:
    fleet = settled()
    fleet.cut("n1")
    fleet.machines["n1"].member = False
    fleet.take_office()
    decision = fleet.decide()
    assert decision is not None
    assert decision.replacing == 1


class TestHeldBack:
    def test_nothing_is_replaced_but_what_is_asked_for_goes_on(self) -> None:
        fleet = settled(4, 4)
        fleet.replaceable = 0
        fleet.lose("n1")
        decision = fleet.decide()
        assert decision is not None
        assert (decision.start, decision.stop, decision.held_back) == (0, (), 1)
        fleet.ask(changes.scale, PATH, 6)
        fleet.settle()
        assert len(fleet.ready()) == 5
        fleet.apply(spec("web:2", 6))
        fleet.settle()
        assert {item.version for item in fleet.placed if item.node != "n1"} == {2}
        fleet.replaceable = UNLIMITED
        fleet.heal()
        assert len(fleet.ready()) == 6 == len(fleet.placed)

    def test_a_replacement_that_was_made_before_is_no_surplus(self) -> None:
        fleet = settled()
        fleet.lose("n1")
        fleet.decide()
        fleet.replaceable = 0
        fleet.settle()
        assert len(fleet.ready()) == 3 == len(fleet.placed)

    def test_so_many_as_are_allowed(self) -> None:
        fleet = settled(2, 10)
        fleet.replaceable = 2
        fleet.lose("n1")
        decision = fleet.decide()
        assert decision is not None
        assert (decision.start, decision.replacing, decision.held_back) == (2, 2, 3)


FAULTS = ["dead", "lose", "cut", "agent-down"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["decide", "decide", "agent", "agent", "agent", "time", "back", "rejoin", "restart", "scale", "update", *FAULTS]),
        st.integers(0, 7),
    ),
    max_size=50,
)


def fault(fleet: Fleet, what: str, name: str) -> None:
    match what:
        case "dead":
            fleet.lose(name)
        case "lose":
            fleet.lose(name, dead=False)
        case "cut":
            fleet.cut(name)
        case "agent-down":
            fleet.agent_down(name)


def act(fleet: Fleet, what: str, which: int, name: str) -> None:
    match what:
        case "decide":
            fleet.decide()
        case "agent":
            fleet.agent_step(which)
        case "time":
            fleet.pass_time(which * 10.0)
        case "back":
            fleet.back(name)
        case "rejoin":
            fleet.rejoin(name)
        case "restart":
            fleet.restart_coordinator()
        case "scale":
            fleet.ask(changes.scale, PATH, which % 4 + 1)
        case "update":
            fleet.apply(spec(f"web:{which}", fleet.app.count))


@settings(max_examples=200, deadline=None)
@given(STEPS, st.integers(1, 4), st.sets(st.sampled_from(["n1", "n2", "n3"]), max_size=2))
def test_whatever_happens_to_nodes_the_cluster_converges_and_never_ends_the_last_healthy_copy(
    steps: list[tuple[str, int]], count: int, stay_lost: set[str]
) -> None:
    fleet = settled(3, count)
    for what, which in steps:
        name = f"n{which % 3 + 1}"
        if what in FAULTS:
            fault(fleet, what, name)
            continue
        before = fleet.ready()
        act(fleet, what, which, name)
        assert fleet.ready() or not before, f"{what} ended the last healthy copy of {before}"
    for name in fleet.machines:
        if name in stay_lost:
            fleet.lose(name)
        else:
            fleet.back(name)
    fleet.heal()
    assert len(fleet.ready()) == fleet.app.count == len(fleet.placed)
    assert not {item.node for item in fleet.placed} & stay_lost
    running = sum(len(machine.running) for machine in fleet.machines.values())
    assert running == fleet.app.count, "something runs that nobody wants"
