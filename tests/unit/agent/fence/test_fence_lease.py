"""Leases: what renews them, when everything ends, and that no order of events lets two incarnations hold the same thing."""

from __future__ import annotations

import random

import pytest

from gestalt.agent.fence.lease import (
    RENEWALS,
    End,
    Held,
    Holding,
    Membership,
    Renew,
    Wait,
    Wanted,
    closed,
    ended,
    extended,
    holding,
    mark_of,
    may_start,
    next_step,
    objection,
    obstacle,
    renewed,
    shortened,
)
from gestalt.zk.grants import GrantMark, LeaseMark

LENGTH, KILL = 8.0, 2.0
BOOT = "boot"
MEMBER, CUT, GONE = Membership(1, True), Membership(1, False), Membership(0, True)
VOLUME = Holding(("/sys/fs/cgroup/pids/docker/abc",), "a-volume", 3, version=5)
OTHER = Holding(("/sys/fs/cgroup/pids/docker/def",), "b-volume", 1)
WANTED = Wanted("volume", VOLUME.cgroups, VOLUME.grant, VOLUME.generation)


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


def test_a_grant_that_is_lost_ends_alone() -> None:
    account = holding(held(), "other", OTHER)
    options = {"length": LENGTH, "tried": 100.0}
    assert next_step(account, MEMBER, BOOT, 100.0, revoked={"volume", "unknown"}, told=False, **options) == End(("volume",))
    assert next_step(closed(account, "volume"), MEMBER, BOOT, 101.0, revoked={"volume"}, told=False, **options) == Renew()


def test_what_is_held_is_told_at_once_and_again_until_it_is_known() -> None:
    nothing = Held(BOOT, 1, 108.0)
    for account in (held(), nothing):
        assert next_step(account, MEMBER, BOOT, 100.5, length=LENGTH, tried=0.0, told=False) == Renew()
        assert next_step(account, MEMBER, BOOT, 100.5, length=LENGTH, tried=100.0, told=False) == Wait(101.0)
        assert not isinstance(next_step(account, CUT, BOOT, 100.5, length=LENGTH, tried=0.0, told=False), Renew)
        assert not isinstance(next_step(nothing, GONE, BOOT, 100.5, length=LENGTH, tried=0.0, told=False), Renew)


def test_what_was_killed_is_not_listed_and_not_forgotten() -> None:
    account = closed(holding(held(), "other", OTHER), "volume")
    assert mark_of(account.live, 1, LENGTH, 2.0) == LeaseMark(1, LENGTH, {"b-volume": 1}, 2.0)
    assert account.closed.keys() == {"volume"}
    assert mark_of(closed(account, "other").live, 1, LENGTH, 2.0) == LeaseMark(1)
    assert step(closed(account, "other"), MEMBER, 200.0) == Wait(None)
    assert closed(Held(), "unknown") == Held()


def test_a_fence_that_starts_with_a_shorter_lease_holds_no_longer_than_it_tells() -> None:
    account = held()
    assert shortened(account, 100.0, 3.0).until == 103.0
    assert shortened(account, 100.0, 60.0) == account


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"generation": 4}, "at generation 4, not 3"),
        ({"generation": 2}, "at generation 2, not 3"),
        ({"node": ""}, "nobody's"),
        ({"node": "y"}, "node y"),
        ({"incarnation": 6}, "membership 6 of this node, which is now at 7"),
        ({"instance": "x"}, "is for x"),
    ],
)
def test_a_grant_is_taken_only_as_it_was_given(change: dict[str, object], why: str) -> None:
    given: dict[str, object] = {"app": "/a", "generation": 3, "instance": "volume", "node": "n", "incarnation": 7}
    found = objection(WANTED, GrantMark(**(given | change)), "n", 7)  # type: ignore[arg-type]
    assert why in found if why else not found


def test_without_a_grant_nothing_is_taken() -> None:
    assert "has no grant a-volume" in objection(WANTED, None, "n", 7)


@pytest.mark.parametrize(
    ("account", "membership", "wanted", "why"),
    [
        (Held(), MEMBER, WANTED, ""),
        (held(), MEMBER, WANTED, ""),
        (held(), Membership(2, True), WANTED, "an earlier membership"),
        (closed(held(), "volume"), Membership(2, True), WANTED, ""),
        (Held(), GONE, WANTED, "no member"),
        (Held(), CUT, WANTED, "no member"),
        (held(), MEMBER, Wanted("volume", ("/a",), "a-volume", 4), "still holds generation 3"),
        (held(), MEMBER, Wanted("next", ("/a",), "a-volume", 4), "volume still holds"),
    ],
)
def test_what_is_at_work_keeps_others_out(account: Held, membership: Membership, wanted: Wanted, why: str) -> None:
    found = obstacle(account, wanted, membership, BOOT)
    assert why in found if why else not found


@pytest.mark.parametrize(
    ("membership", "incarnation", "sent", "until"),
    [
        (CUT, 1, 104.0, 112.0),
        (Membership(0, False), 1, 104.0, 112.0),
        (MEMBER, 1, 104.0, 108.0),
        (CUT, 2, 104.0, 108.0),
        (Membership(2, False), 1, 104.0, 108.0),
        (CUT, 1, 106.0, 108.0),
        (CUT, 1, 99.0, 108.0),
    ],
)
def test_promises_count_from_when_they_were_asked_for(membership: Membership, incarnation: int, sent: float, until: float) -> None:
    """Only of this membership, while ZooKeeper does not answer, never from the future, never to shorten a lease."""
    assert extended(held(), membership, BOOT, 105.0, incarnation=incarnation, sent=sent, length=LENGTH).until == until


def test_a_lease_that_is_over_is_not_brought_back() -> None:
    assert extended(held(), CUT, BOOT, 108.0, incarnation=1, sent=107.0, length=LENGTH) == held()
    assert extended(held(), CUT, "another", 105.0, incarnation=1, sent=104.0, length=LENGTH) == held()


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
