"""Membership, decided step by step: stopped after each step in every way, and what must hold all the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from gestalt.agent.fence.membership import Enter, Lease, Leave, Link, Look, Rest, Save, Saved, Status, Tell
from tests.unit.agent.fence.membership_world import RULES, Fault, Machine, World


def is_sound(world: World) -> None:
    """Every incarnation is used once, they only grow, and nobody ever took a membership from another machine."""
    numbers = [incarnation for incarnation, _ in world.created]
    assert numbers == sorted(set(numbers)), world.created
    assert not world.stolen


def member() -> Machine:
    machine = Machine(World())
    machine.settle()
    return machine


def is_member(machine: Machine) -> bool:
    found = machine.world.member
    return machine.status is Status.MEMBER and found is not None and machine.session is not None and found.owner == machine.session.id


def nothing(machine: Machine) -> None:
    """The same boot, the session lives."""


def expired(machine: Machine) -> None:
    for session in tuple(machine.world.live):
        machine.world.expire(session)


def reboot(machine: Machine) -> None:
    machine.boot += "+"
    machine.die()


def reboot_slowly(machine: Machine) -> None:
    reboot(machine)
    expired(machine)


def agent_stops(machine: Machine) -> None:
    machine.agent = False


def agent_away_for_long(machine: Machine) -> None:
    machine.agent = False
    machine.settle()
    machine.world.now += RULES.agent_grace
    machine.settle()
    machine.agent = True


EVENTS: tuple[Callable[[Machine], None], ...] = (nothing, expired, reboot, reboot_slowly, agent_stops, agent_away_for_long)


def test_it_becomes_a_member() -> None:
    machine = member()
    is_sound(machine.world)
    assert is_member(machine)
    assert machine.world.created == [(1, 1)]
    assert machine.saved.incarnation == 1
    assert machine.saved.session == machine.session


def test_the_incarnation_is_on_disk_before_it_is_used() -> None:
    machine = Machine(World())
    for _ in range(20):
        action = machine.decide().action
        if isinstance(action, Enter):
            assert machine.saved.incarnation == action.incarnation
            return
        machine.step()
    pytest.fail("it never entered")


def interruptions() -> Iterator[tuple[int, Fault]]:
    return ((step, fault) for step in range(9) for fault in Fault)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("first", EVENTS, ids=lambda event: f"after {event.__name__}")
def test_any_two_interruptions_are_survived(first: Callable[[Machine], None], event: Callable[[Machine], None]) -> None:
    """A first event, cut at any step; a second event, cut at any step; then peace."""
    for cut, fault in interruptions():
        for second_cut, second_fault in interruptions():
            machine = Machine(World())
            for what, at, how in ((first, cut, fault), (event, second_cut, second_fault)):
                for _ in range(at):
                    machine.step()
                machine.step(how)
                what(machine)
            machine.agent = True
            machine.settle()
            is_sound(machine.world)
            assert is_member(machine), (cut, fault, second_cut, second_fault)
            assert machine.world.member is not None
            assert machine.world.member.agent


def test_a_restart_within_the_session_changes_nothing() -> None:
    machine = member()
    before = machine.world.member
    machine.die()
    machine.agent = False  # it links again a moment later
    for _ in range(10):
        if isinstance(machine.step(), Rest):
            break
    machine.agent = True
    machine.settle()
    assert machine.world.member == before
    assert machine.world.created == [(1, 1)]


def test_an_expired_session_brings_a_new_incarnation() -> None:
    machine = member()
    expired(machine)
    machine.settle()
    assert is_member(machine)
    assert machine.world.created == [(1, 1), (2, 2)]


def test_a_leftover_of_this_boot_is_replaced_at_once() -> None:
    """The client may find its session lost and get another while the server has not let the first one go."""
    machine = member()
    machine.link, machine.session, machine.looked = Link.CONNECTED, machine.world.new_session(), False
    before = machine.world.now
    while not isinstance(machine.step(), Rest):
        pass
    assert is_member(machine)
    assert machine.world.now == before
    assert [number for number, _ in machine.world.created] == [1, 2]
    is_sound(machine.world)


def test_a_lost_disk_brings_no_incarnation_back() -> None:
    machine = member()
    reboot_slowly(machine)
    machine.saved = Saved()
    machine.world.lease = Lease(1000, 3)
    machine.settle()
    assert is_member(machine)
    assert [number for number, _ in machine.world.created] == [1, 1001]


def test_a_number_is_used_for_one_request_only() -> None:
    machine = Machine(World())
    while not isinstance(machine.decide().action, Enter):
        machine.step()
    machine.step(Fault.UNSENT)
    assert machine.memory.fresh == 0


def test_after_a_reboot_the_session_is_not_resumed() -> None:
    machine = member()
    reboot(machine)
    machine.settle()
    assert machine.world.created == [(1, 1), (2, 2)]


def test_a_suspended_connection_is_waited_for() -> None:
    machine = member()
    machine.link = Link.SUSPENDED
    assert isinstance(machine.step(), Rest)
    assert machine.status is Status.SUSPENDED


def test_an_agent_that_ends_is_told_of_at_once() -> None:
    machine = member()
    machine.agent = False
    assert isinstance(machine.step(), Save)
    action = machine.step()
    assert action == Tell(1, False, 0)
    machine.agent = True
    machine.settle()
    assert machine.world.member is not None
    assert machine.world.member.agent


def test_a_member_that_tells_other_times_than_its_settings_tells_anew() -> None:
    machine = member()
    assert machine.world.member is not None
    machine.world.member = replace(machine.world.member, current=False)
    assert isinstance(machine.step(), Look)
    assert machine.step() == Tell(1, True, 0)


def test_without_an_agent_the_node_gives_itself_up_and_comes_back_as_another_incarnation() -> None:
    machine = member()
    machine.agent = False
    machine.settle()
    assert machine.world.member is not None
    machine.world.now += RULES.agent_grace
    assert isinstance(machine.step(), Leave)
    machine.settle()
    assert machine.status is Status.OUT
    machine.agent = True
    machine.settle()
    assert is_member(machine)
    assert [number for number, _ in machine.world.created] == [1, 2]


def test_restarts_of_the_fence_do_not_lengthen_the_grace() -> None:
    machine = member()
    machine.agent = False
    machine.settle()
    for _ in range(4):
        machine.world.now += RULES.agent_grace / 4
        machine.die()
        machine.settle()
    assert machine.status is Status.OUT


def test_maintenance_keeps_a_node_without_agent() -> None:
    machine = member()
    machine.agent, machine.maintenance = False, True
    machine.settle()
    machine.world.now += RULES.agent_grace * 10
    machine.settle()
    assert is_member(machine)


def test_a_clone_that_starts_stays_out_and_comes_in_only_when_the_other_is_gone_for_good() -> None:
    machine = member()
    clone = Machine(machine.world, boot="other", saved=machine.saved)
    for _ in range(60):
        clone.step()
        machine.step()
        machine.world.now += 0.5
    assert clone.status is Status.REFUSED
    assert is_member(machine)
    assert machine.session is not None
    machine.world.expire(machine.session.id)
    clone.step()
    machine.settle()
    for _ in range(10):
        clone.step()
    assert is_member(machine), "the rightful one was away for a moment only"
    machine.die()
    expired(machine)
    clone.settle()
    assert is_member(clone)
    is_sound(machine.world)


@pytest.mark.parametrize("seed", range(40))
def test_two_claimants_never_fight(seed: int) -> None:
    dice = random.Random(seed)
    world = World()
    machines = [Machine(world, boot=f"boot-{number}") for number in range(2)]
    for _ in range(400):
        machine = dice.choice(machines)
        machine.step(dice.choice(tuple(Fault)) if dice.random() < 0.1 else None)
        world.now += dice.random()
        if dice.random() < 0.02 and machine.session is not None:
            world.expire(machine.session.id)
        if dice.random() < 0.05:
            machine.agent = not machine.agent
    is_sound(world)
