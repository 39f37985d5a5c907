"""Exclusive apps under faults: never two copies at work, and one again as soon as that is certain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt.coordinator import changes
from gestalt.coordinator.brakes import UNLIMITED
from gestalt.coordinator.members import confirmed_dead
from gestalt.coordinator.records import TaskState, instance_id
from gestalt.coordinator.state import Draft
from gestalt.errors import GestaltError
from gestalt.model import Observed, Phase
from tests.unit.coordinator.guarded import LEASE, WAIT, Guarded, Storage, guarded, holder, spec, why
from tests.unit.coordinator.world import PATH, World


def generation(fleet: Guarded) -> int:
    (grant,) = fleet.state.grants.values()
    return grant.generation


def confirm(fleet: Guarded, name: str) -> None:
    draft = Draft(fleet.state)
    draft.put_node(confirmed_dead(fleet.state.nodes[name]))
    fleet.state.apply(draft)


def test_the_grant_comes_with_the_placement_and_is_told_only_when_zookeeper_shows_it() -> None:
    fleet = Guarded()
    fleet.decide()
    (item,) = fleet.placed
    (grant,) = fleet.state.grants.values()
    assert (grant.serial, grant.node, grant.incarnation, grant.generation) == (item.serial, item.node, 1, 1)
    assert fleet.book.terms(fleet.app, item).withheld
    fleet.show()
    told = fleet.book.terms(fleet.app, item)
    assert not told.withheld
    assert told.grant is not None
    assert told.grant.generation == 1


def test_a_lost_holder_is_replaced_after_the_whole_wait_and_not_before() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first, dead=False)
    fleet.settle()
    assert "may still hold it for 11 s" in why(fleet)
    assert f"`gestaltctl node confirm-dead {first}`" in why(fleet)
    fleet.pass_time(WAIT - 0.1)
    fleet.settle()
    assert generation(fleet) == 1
    assert [item.node for item in fleet.placed] == [first]
    fleet.pass_time(0.2)
    fleet.settle()
    assert holder(fleet) != first
    assert generation(fleet) == 2
    assert len(fleet.at_work()) == 1


def test_time_wakes_the_leader_when_the_wait_ends() -> None:
    fleet = guarded()
    fleet.lose(holder(fleet))
    fleet.settle()
    decision = fleet.decide()
    assert decision is not None
    assert decision.wake_in == pytest.approx(WAIT)


def test_what_was_replaced_is_forgotten_and_stands_in_nobodys_way() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first)
    fleet.settle()
    fleet.pass_time(WAIT)
    fleet.settle()
    assert [item.node for item in fleet.placed] == [holder(fleet)] != [first]
    assert why(fleet) == ""
    fleet.apply(spec("web:2", 1, placement={"exclusive": True}))
    fleet.settle()
    assert generation(fleet) == 3
    assert [item.version for item in fleet.placed] == [2]
    assert fleet.last_task.state is TaskState.SUCCEEDED


def test_a_confirmed_loss_is_replaced_at_once() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first)
    confirm(fleet, first)
    fleet.settle()
    assert holder(fleet) != first
    assert len(fleet.at_work()) == 1


def test_a_new_leader_waits_anew() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first, dead=False)
    fleet.settle()
    fleet.pass_time(WAIT - 1)
    fleet.take_office()
    fleet.settle()
    fleet.pass_time(WAIT - 0.1)
    fleet.settle()
    assert generation(fleet) == 1
    fleet.pass_time(0.2)
    fleet.settle()
    assert generation(fleet) == 2


def test_a_node_that_is_back_during_the_wait_ends_its_copy_and_it_is_replaced_when_that_is_gone() -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first, dead=False)
    fleet.settle()
    fleet.pass_time(1)
    fleet.fences[first].deaf = True
    fleet.rejoin(first)
    fleet.decide()
    fleet.show()
    assert len(fleet.at_work()) == 1, "its agent has not connected yet"
    assert generation(fleet) == 1
    fleet.fences[first].deaf = False
    fleet.connect(first)
    fleet.settle()
    assert generation(fleet) == 2
    assert len(fleet.at_work()) == 1


def test_an_unreachable_holder_loses_its_right_after_failover_after() -> None:
    fleet = guarded(failover_after=30.0)
    first = holder(fleet)
    fleet.cut(first)
    fleet.pass_time(4 + 29.9)
    fleet.renew(first)
    fleet.settle()
    assert not next(iter(fleet.state.grants.values())).revoked
    fleet.pass_time(0.2)
    fleet.fences[first].deaf = True
    fleet.decide()
    assert next(iter(fleet.state.grants.values())).revoked
    fleet.show()
    fleet.pass_time(WAIT - 0.1)
    fleet.decide()
    assert generation(fleet) == 1
    fleet.pass_time(0.2)
    fleet.fences[first].deaf = False
    fleet.settle()
    assert generation(fleet) == 2


def test_an_unreachable_holder_that_hands_it_back_is_not_waited_for() -> None:
    fleet = guarded(failover_after=30.0)
    first = holder(fleet)
    fleet.cut(first)
    fleet.pass_time(5)
    fleet.renew(first)
    fleet.pass_time(5)
    fleet.renew(first)
    for _ in range(5):
        fleet.pass_time(5)
        fleet.renew(first)
    fleet.settle()
    assert generation(fleet) == 2
    assert holder(fleet) != first


def test_a_grant_that_nobody_took_is_given_on_at_once() -> None:
    fleet = Guarded()
    fleet.leases = {}
    fleet.decide()
    fleet.show()
    first = holder(fleet)
    for name in fleet.fences:
        fleet.renew(name)
    fleet.lose(first)
    fleet.decide()
    fleet.show()
    fleet.settle()
    assert generation(fleet) == 2


@pytest.mark.parametrize("away", ["agent down", "agent down, then cut"])
def test_a_node_whose_agent_is_down_keeps_it(away: str) -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.agent_down(first)
    for _ in range(20):
        fleet.pass_time(5)
        fleet.renew(first)
        fleet.settle()
    assert holder(fleet) == first
    assert generation(fleet) == 1
    assert away


def test_the_storage_fence_is_asked_at_once_and_waited_for() -> None:
    storage = Storage()
    fleet = guarded(storage=storage)
    first = holder(fleet)
    fleet.lose(first)
    fleet.settle()
    assert storage.asked == {(first, 1)}
    fleet.pass_time(WAIT * 3)
    fleet.settle()
    assert "do not all refuse its packets" in why(fleet)
    assert generation(fleet) == 1
    storage.done.add((first, 1))
    fleet.settle()
    assert generation(fleet) == 2


def test_nothing_is_replaced_while_the_brakes_hold() -> None:
    fleet = guarded()
    fleet.replaceable = 0
    fleet.lose(holder(fleet))
    fleet.pass_time(WAIT * 3)
    fleet.settle()
    fleet.pass_time(WAIT * 3)
    fleet.settle()
    assert generation(fleet) == 1
    fleet.replaceable = UNLIMITED
    fleet.settle()
    assert generation(fleet) == 2


def test_an_update_ends_the_old_copy_first() -> None:
    fleet = guarded()
    fleet.apply(spec("web:2", 1, placement={"exclusive": True}))
    fleet.settle()
    assert generation(fleet) == 2
    assert [item.version for item in fleet.placed] == [2]


def test_an_agent_that_says_gone_while_it_starts_it_is_not_believed() -> None:
    fleet = Guarded(2)
    fleet.decide()
    fleet.show()
    (item,) = fleet.placed
    fleet.hear(item.node)  # the agent has it on disk, and is about to start it
    fleet.ask(changes.restart, PATH)
    fleet.decide()
    fleet.cut(item.node)
    fleet.connect(item.node)  # its inventory does not have it
    fleet.act(item.node)  # now it starts, as it was told first
    assert len(fleet.at_work()) == 1
    (other,) = fleet.fences.keys() - {item.node}
    for _ in range(6):
        fleet.decide()
        fleet.show()
        fleet.hear(other)
        fleet.act(other)
        assert len(fleet.at_work()) == 1, "what it started has not reached the leader yet"
    fleet.settle()
    assert len(fleet.at_work()) == 1


@pytest.mark.parametrize("verb", [changes.stop, changes.delete])
def test_what_ended_leaves_no_right_behind(verb: object) -> None:
    fleet = guarded()
    fleet.ask(verb, PATH)
    fleet.settle()
    assert fleet.at_work() == []
    if verb is changes.delete:
        assert fleet.state.grants == {}
        assert fleet.znodes == {}
    else:
        assert [mark.node for mark in fleet.znodes.values()] == [""]
        fleet.ask(changes.start, PATH)
        fleet.settle()
        assert generation(fleet) == 2


def test_an_app_of_a_lost_node_is_deleted_when_nobody_can_hold_it() -> None:
    fleet = guarded()
    fleet.lose(holder(fleet), dead=False)
    fleet.ask(changes.delete, PATH)
    fleet.settle()
    assert fleet.state.grants
    fleet.pass_time(WAIT)
    fleet.settle()
    assert not fleet.state.apps
    assert not fleet.state.grants


def test_a_lease_that_was_read_before_the_revocation_says_nothing() -> None:
    fleet = guarded(1)
    fleet.ask(changes.restart, PATH)
    fleet.settle()
    assert generation(fleet) == 2
    assert fleet.book._leases._read["n1"][0] is not None, "it was read when the first right was taken back"
    fleet.cut("n1")
    fleet.pass_time(35)
    fleet.renew("n1")
    fleet.decide()
    (grant,) = fleet.state.grants.values()
    assert grant.revoked
    fleet.book.shown(grant)
    (item,) = fleet.placed
    verdict = fleet.book.verdict(fleet.app, item)
    assert verdict is not None
    assert not verdict.free


@pytest.mark.parametrize(("phase", "expected"), [(Phase.RUNNING, 1), (Phase.STOPPING, 1), (Phase.FAILED, 2)])
def test_a_returned_node_is_waited_for_while_it_says_that_its_copy_is_at_work(phase: Phase, expected: int) -> None:
    fleet = guarded()
    first = holder(fleet)
    fleet.lose(first)
    fleet.settle()
    fleet.rejoin(first)
    (item,) = fleet.placed
    name = instance_id(fleet.app, item.serial)
    fleet.machines[first].linked = True
    fleet.tracker.connected(fleet.view_of(first))
    fleet.tracker.inventory(fleet.view_of(first), [name], [Observed(name, 1, phase)])
    fleet.pass_time(WAIT * 2)
    for _ in range(3):
        fleet.decide()
        fleet.show()
    assert generation(fleet) == expected


def test_a_second_instance_is_refused() -> None:
    fleet = guarded()
    with pytest.raises(GestaltError, match="exclusive"):
        fleet.ask(changes.scale, PATH, 2)


ALONE = {"placement": {"exclusive": True}}


def test_nobody_rolls_back_to_an_exclusive_version_with_more_than_one_instance() -> None:
    world = World()
    world.apply(spec("web:1", 1, **ALONE))
    world.settle()
    world.apply(spec("web:2", 3))
    world.settle()
    with pytest.raises(GestaltError, match="3 of version 1, which is exclusive"):
        world.ask(changes.rollback, PATH, 1)
    world.ask(changes.scale, PATH, 1)
    world.ask(changes.rollback, PATH, 1)
    world.settle()
    assert [item.version for item in world.placed] == [1]


def test_an_update_that_fails_goes_back_to_one_instance_of_an_exclusive_version() -> None:
    world = World(broken=frozenset({"web:2"}))
    world.apply(spec("web:1", 1, **ALONE))
    world.settle()
    world.apply(spec("web:2", 3))
    for _ in range(4):
        world.settle()
        world.pass_time(301)
    world.settle()
    assert (world.app.version, world.app.count) == (1, 1)
    assert [item.version for item in world.ready()] == [1]


def test_an_appliance_needs_no_grants() -> None:
    world = World()
    world.apply(spec("web:1", 1, **ALONE))
    world.settle()
    world.ask(changes.restart, PATH)
    world.settle()
    assert len(world.ready()) == 1
    assert world.state.grants == {}


def test_an_app_that_becomes_exclusive_ends_all_its_copies_first() -> None:
    world = World()
    world.apply(spec("web:1", 3))
    world.settle()
    former = set(world.running)
    world.apply(spec("web:2", 1, **ALONE))
    for _ in range(30):
        world.decide()
        assert not former & world.running.keys() or {item.version for item in world.placed} == {1}
        world.agent_step()
    world.settle()
    assert [item.version for item in world.ready()] == [2]


OF_LEADER = ["turn", "decide", "show", "lead", "lead", "lead", "new leader", "restart", "restart", "stop", "start", "pause"]
OF_NODES = ["hear", "act", "report", "renew", "work", "work", "lose", "dead", "cut", "down", "back", "back", "rejoin", "deaf", "confirm"]
ACTIONS = [*OF_LEADER, *OF_NODES, "time", "time", "time"]
SPANS = [0.4, 1.0, 2.0, 4.0, 7.0, 9.0, 9.5, 10.5, 11.1]
"""Seconds that pass at once."""


def step(fleet: Guarded, what: str, which: int, name: str) -> None:
    of_node = {
        "hear": fleet.hear, "act": fleet.act, "report": fleet.report, "renew": fleet.renew,
        "cut": fleet.cut, "down": fleet.agent_down, "back": fleet.back, "rejoin": fleet.rejoin,
    }  # fmt: skip
    of_all = {"turn": fleet.turn, "decide": fleet.decide, "show": fleet.show, "new leader": fleet.take_office}
    if what in of_node:
        of_node[what](name)
    elif what in of_all:
        of_all[what]()
    elif what == "lead":
        fleet.decide()
        fleet.show()
    elif what == "work":
        fleet.hear(name)
        fleet.act(name)
    else:
        trouble(fleet, what, which, name)


def trouble(fleet: Guarded, what: str, which: int, name: str) -> None:
    match what:
        case "time":
            fleet.pass_time(SPANS[which])
        case "lose" | "dead":
            fleet.lose(name, dead=what == "dead")
        case "deaf":
            fleet.fences[name].deaf = not fleet.fences[name].deaf
        case "confirm" if fleet.state.nodes[name].lost and not fleet.fences[name].taken:
            confirm(fleet, name)
        case "pause":
            fleet.replaceable = 0 if fleet.replaceable else UNLIMITED
        case "stop" | "start":
            fleet.ask(changes.stop if what == "stop" else changes.start, PATH)
        case "restart" if not fleet.app.stopped:
            fleet.ask(changes.restart, PATH)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 8)), max_size=60), st.sampled_from([LEASE, 4 * LEASE]))
def test_whatever_happens_there_are_never_two_and_in_the_end_there_is_one(steps: list[tuple[str, int]], lease: float) -> None:
    """`lease`: of the fences, in their settings; the leader's is `LEASE`."""
    fleet = guarded(failover_after=5.0, lease=lease)
    for what, which in steps:
        step(fleet, what, which, f"n{which % 3 + 1}")
        assert len(fleet.at_work()) <= 1, f"{what} {which}: {fleet.at_work()}"
    fleet.replaceable = UNLIMITED
    for name, fence in fleet.fences.items():
        fence.deaf = False
        fleet.back(name)
    if fleet.app.stopped:
        fleet.ask(changes.start, PATH)
    fleet.settle()
    fleet.pass_time(WAIT + lease)
    fleet.settle()
    assert len(fleet.at_work()) == 1 == len(fleet.placed)
