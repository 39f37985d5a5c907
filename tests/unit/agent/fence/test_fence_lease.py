"""Leases: what renews them, when everything ends, and that no order of events lets two incarnations hold the same thing."""

from __future__ import annotations

import random

import pytest

from gestalt.agent.fence.lease import RENEWALS, End, Held, Holding, Membership, Renew, Wait, ended, holding, may_start, next_step, renewed

LENGTH, KILL = 8.0, 2.0
BOOT = "boot"
MEMBER, CUT, GONE = Membership(1, True), Membership(1, False), Membership(0, True)
VOLUME = Holding(("/sys/fs/cgroup/pids/docker/abc",))


def held(until: float = 108.0) -> Held:
    return holding(Held(BOOT, 1, until), "volume", VOLUME)


def step(account: Held, membership: Membership, now: float, tried: float = 0.0, boot: str = BOOT) -> object:
    return next_step(account, membership, boot, now, length=LENGTH, tried=tried)


def test_it_is_renewed_four_times_within_its_length() -> None:
    assert step(held(), MEMBER, 100.0) == Wait(100.0 + LENGTH / RENEWALS)
    assert step(held(), MEMBER, 102.0) == Renew()
    assert step(held(), MEMBER, 102.5, tried=102.0) == Wait(103.0)
    assert step(held(), MEMBER, 103.0, tried=102.0) == Renew()


@pytest.mark.parametrize("membership", [MEMBER, CUT, GONE])
def test_at_its_end_everything_ends(membership: Membership) -> None:
    assert step(held(), membership, 108.0) == End(("volume",))


@pytest.mark.parametrize("membership", [CUT, GONE])
def test_without_membership_or_connection_it_runs_out(membership: Membership) -> None:
    assert step(held(), membership, 107.9) == Wait(108.0)


def test_another_incarnation_ends_what_the_former_one_held() -> None:
    assert step(held(), Membership(2, True), 101.0) == End(("volume",))


def test_after_a_reboot_there_is_nothing_to_end() -> None:
    assert step(held(), MEMBER, 3.0, boot="another") == Wait(None)
    assert not may_start(held(), MEMBER, "another", 3.0, KILL)


def test_a_lease_counts_from_the_sending_and_never_gets_shorter() -> None:
    account = renewed(Held(), 1, BOOT, sent=100.0, length=LENGTH)
    assert account == Held(BOOT, 1, 108.0)
    assert renewed(account, 1, BOOT, sent=99.0, length=LENGTH) == account


def test_nothing_held_is_taken_over_by_another_incarnation() -> None:
    assert renewed(held(), 2, BOOT, sent=104.0, length=LENGTH) == held()
    assert renewed(ended(held(), "volume"), 2, BOOT, sent=104.0, length=LENGTH) == Held(BOOT, 2, 112.0)


@pytest.mark.parametrize(
    ("membership", "now", "may"), [(MEMBER, 100.0, True), (MEMBER, 106.0, False), (MEMBER, 109.0, False), (GONE, 100.0, False)]
)
def test_something_starts_only_while_there_is_time_to_end_it(membership: Membership, now: float, may: bool) -> None:
    assert may_start(held(), membership, BOOT, now, KILL) is may


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_held_after_the_last_committed_sending_plus_a_lease(seed: int) -> None:
    """Random losses of requests and answers, restarts from the disk, hangs of half a lease: the rule above, at every moment."""
    dice = random.Random(seed)
    now, tried, committed = 100.0, 0.0, 100.0
    disk = held(until=committed + LENGTH)
    for _ in range(300):
        now += dice.choice((0.1, 0.5, 4.0))
        membership = dice.choice((MEMBER, MEMBER, MEMBER, CUT, GONE))
        action = step(disk, membership, now, tried)
        if isinstance(action, Renew):
            tried = sent = now
            arrives, answered = dice.random() < 0.6, dice.random() < 0.8
            now += dice.random()
            committed = sent if arrives else committed
            if arrives and answered:
                disk = renewed(disk, 1, BOOT, sent, LENGTH)
        if isinstance(action, End):
            assert now >= disk.until
            disk = ended(disk, "volume")
            assert step(disk, membership, now, tried) == Wait(None)
            return
        assert disk.until <= committed + LENGTH
        assert not isinstance(action, Wait) or action.until is None or now < action.until <= committed + LENGTH
