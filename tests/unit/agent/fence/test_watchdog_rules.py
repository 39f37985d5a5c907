"""When the watchdog is armed, fed and disarmed: decisions on a clock of their own, against a model of the kernel's timer."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from math import floor, inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.agent.fence import watchdog_device
from gestalt.agent.fence.settings import TimingSettings
from gestalt.agent.fence.watchdog import (
    SLACK,
    Disarm,
    Feed,
    Guarded,
    Wait,
    Watch,
    deadline_of,
    decide,
    noticed,
    wanted_timeout,
)
from gestalt.agent.fence.watchdog_device import is_for_ever, set_nearest

LEASE, KILL = 8.0, 2.0
HELD = Guarded(frozenset({"volume"}), until=108.0)
FED = Watch(ticking=True, deadline=110.0, at=100.0, timeout=10.0)


def next_action(guarded: Guarded, watch: Watch, now: float) -> Feed | Disarm | Wait:
    return decide(deadline_of(guarded, noticed(watch, guarded, now), KILL), watch, now)


def test_it_is_never_armed_while_nothing_exclusive_is_held() -> None:
    assert next_action(Guarded(until=108.0), Watch(), 100.0) == Wait()
    assert next_action(Guarded(revoked=frozenset({"gone"})), Watch(), 100.0) == Wait()


def test_what_is_held_is_worth_one_feed_a_renewal() -> None:
    assert next_action(HELD, Watch(), 100.0) == Feed(110.0)
    assert next_action(HELD, FED, 100.1) == Wait(110.0)
    assert next_action(replace(HELD, until=110.0), FED, 102.0) == Feed(112.0)


def test_a_time_out_that_is_too_short_is_filled_up_to_the_deadline() -> None:
    short = replace(FED, timeout=3.0)
    assert next_action(HELD, short, 100.1) == Wait(101.5)
    assert next_action(HELD, short, 101.5) == Feed(110.0)
    late = replace(short, at=106.9)
    assert next_action(HELD, late, 107.0) == Feed(110.0)
    assert next_action(HELD, replace(late, at=107.0), 107.1) == Wait(110.0)
    assert next_action(HELD, replace(late, at=106.0), 107.0 + 2 * SLACK) == Wait(110.0), "fed so late, it would reset after the deadline"


def test_it_is_disarmed_when_the_last_one_is_gone() -> None:
    assert next_action(Guarded(), FED, 101.0) == Disarm()


def test_what_should_have_ended_and_has_not_starves_it() -> None:
    assert next_action(HELD, replace(FED, timeout=1.0), 110.0) == Wait()
    assert next_action(HELD, Watch(), 111.0) == Wait()


def test_a_revoked_grant_starves_it_from_the_kill_budget_on_although_other_leases_are_renewed() -> None:
    revoked = Guarded(frozenset({"a", "b"}), 108.0, frozenset({"a"}))
    watch = noticed(FED, revoked, 101.0)
    assert deadline_of(revoked, watch, KILL) == 103.0
    watch = noticed(watch, replace(revoked, until=112.0), 104.0)
    assert decide(deadline_of(replace(revoked, until=112.0), watch, KILL), watch, 104.0) == Wait()
    ended = Guarded(frozenset({"b"}), 112.0)
    watch = noticed(watch, ended, 104.5)
    assert decide(deadline_of(ended, watch, KILL), watch, 104.5) == Feed(114.0)


def test_a_new_life_takes_over_with_the_first_renewal_of_its_own_and_no_earlier() -> None:
    left = Watch(ticking=True, deadline=110.0)
    assert next_action(HELD, left, 101.0) == Wait(110.0), "to open it is to feed it: a crash loop would feed it for ever"
    assert next_action(replace(HELD, until=109.5), left, 101.5) == Feed(111.5)
    assert next_action(Guarded(), left, 101.5) == Disarm()


@pytest.mark.parametrize(("lease", "kill", "seconds"), [(8, 2, 10), (3.5, 1, 4), (2.5, 0.5, 3), (0.4, 0.2, 1)])
def test_the_time_out_is_that_of_lease_and_kill_budget_in_whole_seconds(lease: float, kill: float, seconds: int) -> None:
    assert wanted_timeout(TimingSettings(session=0.1, lease=lease, kill=kill, margin=0.1)) == seconds


@pytest.mark.parametrize(
    ("present", "taken", "chosen"),
    [(60, range(1, 100), 10), (60, range(15, 100), 15), (5, range(1, 8), 7), (60, (), 60), (10, range(1, 100), 10)],
    ids=["as wanted", "the least that it takes", "the most that it takes", "it takes none", "it is so already"],
)
def test_the_driver_takes_what_is_nearest(present: int, taken: range, chosen: int) -> None:
    found = [present]

    def takes(length: int) -> bool:
        if length in taken:
            found.append(length)
        return length in taken

    set_nearest(10, present, takes)
    assert found[-1] == chosen
    assert len(found) <= 2


def test_the_numbers_are_those_of_the_kernel() -> None:
    """As <linux/watchdog.h> gives them on x86-64 and aarch64."""
    numbers = (watchdog_device.GETSUPPORT, watchdog_device.SETTIMEOUT, watchdog_device.GETTIMEOUT)
    assert numbers == (0x80285700, 0xC0045706, 0x80045707)


def test_one_that_nobody_can_disarm_is_known_by_sysfs(tmp_path: Path) -> None:
    number = Path("/dev/null").stat().st_rdev
    place = tmp_path / f"dev/char/{os.major(number)}:{os.minor(number)}"
    place.mkdir(parents=True)
    assert not is_for_ever("/dev/null", tmp_path)
    (place / "nowayout").write_text("0\n")
    assert not is_for_ever("/dev/null", tmp_path)
    (place / "nowayout").write_text("1\n")
    assert is_for_ever("/dev/null", tmp_path)
    assert not is_for_ever(str(tmp_path / "none"), tmp_path)


@dataclass
class Machine:
    """A fence that holds something from 0 on, and the timer of its watchdog."""

    timeout: float
    lease: float
    kill: float
    now: float = 0.0
    until: float = 0.0
    live: frozenset[str] = frozenset({"volume"})
    watch: Watch = field(default_factory=Watch)
    resets: float = inf

    def renew(self) -> None:
        self.until = self.now + self.lease

    def follow(self, end: float) -> None:
        """Do what is decided until `end`."""
        while True:
            guarded = Guarded(self.live, self.until)
            action = decide(deadline_of(guarded, self.watch, self.kill), self.watch, self.now)
            if isinstance(action, Feed):
                self.watch = Watch(True, action.deadline, self.now, self.timeout)
                self.resets = self.now + self.timeout
            elif isinstance(action, Disarm):
                self.watch, self.resets = Watch(), inf
            else:
                self.now = min(end, inf if action.until is None else action.until)
                assert self.now < self.resets, "the machine was reset"
                if self.now >= end:
                    return


times = {"lease": st.floats(0.5, 20), "kill": st.floats(0.1, 5), "renewals": st.integers(0, 20)}


@given(**times, share=st.floats(0, 0.95), longer=st.integers(-20, 50))
def test_no_machine_is_reset_that_ends_in_time_what_it_holds(lease: float, kill: float, renewals: int, share: float, longer: int) -> None:
    """Whatever the driver's time-out is, but for the fraction by which the shortest one may be too long to be filled up."""
    machine = Machine(max(1, floor(lease + kill) + longer), lease, kill)
    for _ in range(renewals + 1):
        machine.renew()
        machine.follow(machine.now + lease / 4)
    machine.follow(machine.until + share * kill)
    machine.live = frozenset()
    machine.follow(machine.now)
    assert machine.resets == inf


@given(**times, hangs=st.floats(0, 1), timeout=st.integers(1, 60))
def test_a_machine_whose_fence_hangs_is_reset_by_the_deadline(lease: float, kill: float, renewals: int, hangs: float, timeout: int) -> None:
    """Or as much later as the driver's shortest time-out is longer."""
    machine = Machine(timeout, lease, kill)
    for _ in range(renewals + 1):
        machine.renew()
        machine.follow(machine.now + lease / 4)
    machine.follow(machine.now + hangs * (machine.until + kill - machine.now) * 0.99)
    assert machine.resets <= machine.until + kill + max(0.0, timeout - lease - kill) + SLACK
