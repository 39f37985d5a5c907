"""When something exclusive may be given to another node: every row of the rule, and its edges in time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gestalt.config import TimingSettings
from gestalt.coordinator.grants import (
    FREE,
    Holder,
    Rules,
    caught_up,
    complaint,
    grant_name,
    judge,
    lists,
    mark_of,
    next_grant,
    wait_by,
    wait_of,
)
from gestalt.coordinator.records import App, Grant
from gestalt.zk.grants import GrantMark, LeaseMark

GRANT = Grant("/o/w/e/db", "db-ab12cd", 7, 3, "n1", 5)
BACK = replace(GRANT, revoked=True)
RULES = Rules(wait=11.0, failover_after=60.0)
HELD = LeaseMark(5, 8.0, {"db-ab12cd": 7})
EMPTY = LeaseMark(5)


def stays(holder: Holder, rules: Rules = RULES) -> bool:
    """The holder is left alone: it keeps its right, and nobody else gets one."""
    verdict = judge(holder, rules)
    return not verdict.free and not verdict.revoke and not verdict.why


def test_a_member_keeps_what_it_holds() -> None:
    assert stays(Holder(GRANT, 5))
    assert math.isinf(judge(Holder(GRANT, 5), RULES).look_in)


def test_an_agent_that_is_down_or_silent_for_a_while_changes_nothing() -> None:
    assert stays(Holder(GRANT, 5, gone=True)), "its instance is to stay: the agent starts it again"
    assert stays(Holder(GRANT, 5, leaving=True)), "it is still ending it"


@pytest.mark.parametrize(
    "holder",
    [
        Holder(GRANT, 0, over_for=0.0),
        Holder(GRANT, 6, over_for=0.0),
        Holder(GRANT, 5, leaving=True, gone=True),
        Holder(GRANT, 5, unreachable=60.0),
    ],
    ids=["lost", "another membership", "handed back", "unreachable for too long"],
)
def test_its_right_is_taken_back_before_anybody_else_gets_it(holder: Holder) -> None:
    verdict = judge(holder, RULES)
    assert verdict.revoke
    assert not verdict.free
    assert verdict.why


def test_an_unreachable_node_keeps_it_for_failover_after_to_the_moment() -> None:
    verdict = judge(Holder(GRANT, 5, unreachable=59.5), RULES)
    assert (verdict.revoke, verdict.look_in) == (False, 0.5)
    assert "1 s more" in verdict.why


def test_while_the_brakes_hold_nothing_is_taken_from_a_member() -> None:
    assert stays(Holder(GRANT, 5, unreachable=1000.0), replace(RULES, held=True))


@pytest.mark.parametrize("grant", [GRANT, BACK])
@pytest.mark.parametrize(("confirmed", "is_free"), [(0.0, False), (4.0, False), (5.0, True), (6.0, True), (math.inf, True)])
def test_who_is_declared_dead_or_was_removed_holds_nothing_at_once(grant: Grant, confirmed: float, is_free: bool) -> None:
    assert judge(Holder(grant, 0, over_for=0.0, confirmed=confirmed, secured=False), RULES).free is is_free


def test_it_is_not_free_before_the_revocation_is_in_zookeeper_however_much_time_has_passed() -> None:
    assert not judge(Holder(BACK, 0, over_for=1000.0), RULES).free
    assert not judge(Holder(BACK, 5, unreachable=1000.0, gone=True), RULES).free


@pytest.mark.parametrize(
    ("lease", "is_free"),
    [
        (None, False),
        (HELD, False),
        (EMPTY, True),
        (LeaseMark(5, 8.0, {"other": 9}), True),
        (LeaseMark(5, 8.0, {"db-ab12cd": 6}), True),
        (LeaseMark(5, 8.0, {"db-ab12cd": 8}), False),
        (LeaseMark(6), False),
        (LeaseMark(4), False),
    ],
    ids=["not read", "lists it", "empty", "lists another", "lists an earlier one", "a later one", "of another membership", "of an earlier"],
)
@pytest.mark.parametrize("over", [None, 0.0])
def test_what_the_lease_does_not_list_after_the_revocation_is_free_at_once(
    lease: LeaseMark | None, is_free: bool, over: float | None
) -> None:
    assert judge(Holder(BACK, 5 if over is None else 0, over_for=over, revoked_for=0.0, lease=lease, secured=False), RULES).free is is_free


@pytest.mark.parametrize("member", [0, 6])
def test_of_a_lost_node_it_is_free_when_the_lease_must_be_over_and_not_a_moment_before(member: int) -> None:
    just = judge(Holder(BACK, member, over_for=10.99, revoked_for=10.9, lease=HELD), RULES)
    assert not just.free
    assert just.look_in == pytest.approx(0.01)
    assert "may still hold it for 1 s" in just.why
    assert judge(Holder(BACK, member, over_for=11.0, revoked_for=0.0, lease=HELD), RULES).free


def test_of_an_unreachable_member_the_wait_counts_from_the_revocation() -> None:
    assert judge(Holder(BACK, 5, unreachable=1000.0, revoked_for=4.0), RULES).look_in == 7.0
    assert judge(Holder(BACK, 5, unreachable=1000.0, revoked_for=11.0), RULES).free


@pytest.mark.parametrize("member", [0, 5, 6])
def test_a_holder_whose_fence_told_longer_times_is_waited_for_by_those(member: int) -> None:
    just = Holder(BACK, member, over_for=62.9, revoked_for=62.9, lease=HELD, wait=63.0)
    assert not judge(just, RULES).free
    assert judge(just, RULES).look_in == pytest.approx(0.1)
    assert judge(replace(just, revoked_for=63.0), RULES).free


def test_shorter_times_of_a_fence_shorten_nothing() -> None:
    assert not judge(Holder(BACK, 0, over_for=10.9, revoked_for=10.9, lease=HELD, wait=3.0), RULES).free


def test_time_frees_nothing_before_it_is_known_how_long_it_may_be_held() -> None:
    unread = judge(Holder(BACK, 0, over_for=50.0, revoked_for=50.0, wait=None), RULES)
    assert not unread.free
    assert unread.look_in == 1.0
    assert "has not told" in unread.why


@pytest.mark.parametrize(
    ("lease", "wait"),
    [
        (LeaseMark(5, 60.0, {"x": 1}, 5.0), 66.0),
        (LeaseMark(5, 60.0, {"x": 1}), 63.0),
        (LeaseMark(5), 0.0),
    ],
    ids=["its own kill", "the leader's for what is not told", "nothing held"],
)
def test_the_wait_by_the_times_that_a_fence_tells(lease: LeaseMark, wait: float) -> None:
    assert wait_by(lease, TimingSettings()) == wait


def test_a_node_with_longer_times_than_the_leader_is_complained_about() -> None:
    assert "lease 60 s and kill 2 s" in complaint(60.0, 2.0, TimingSettings())
    for lease, kill in ((8.0, 2.0), (4.0, 1.0), (0.0, 0.0)):
        assert complaint(lease, kill, TimingSettings()) == ""


def test_a_node_that_is_lost_after_its_right_was_taken_back_is_not_waited_for_twice() -> None:
    assert judge(Holder(BACK, 0, over_for=1.0, revoked_for=11.0), RULES).free


def test_the_storage_has_to_refuse_a_node_without_membership() -> None:
    refused = judge(Holder(BACK, 0, over_for=50.0, revoked_for=50.0, secured=False), RULES)
    assert not refused.free
    assert math.isinf(refused.look_in), "the storage fence wakes"
    assert "do not all refuse" in refused.why
    assert judge(Holder(BACK, 6, over_for=50.0, revoked_for=50.0, secured=False), RULES).free


def test_a_node_that_is_back_says_itself_when_its_copy_is_gone() -> None:
    assert judge(Holder(BACK, 6, over_for=0.1, gone=True), RULES).free
    assert not judge(Holder(BACK, 6, over_for=0.1), RULES).free
    assert not judge(Holder(BACK, 5, gone=True), RULES).free, "under the same membership it may be starting it again"
    assert not judge(Holder(GRANT, 6, over_for=0.1, gone=True), RULES).free, "it was not told to stop yet"


def test_time_alone_frees_nothing_that_an_agent_says_is_there() -> None:
    verdict = judge(Holder(BACK, 5, revoked_for=50.0, present=True), RULES)
    assert not verdict.free
    assert "has not ended it" in verdict.why
    assert judge(Holder(BACK, 5, revoked_for=50.0, lease=EMPTY, present=True), RULES) == FREE, "its fence has killed it"


def test_what_zookeeper_says() -> None:
    assert mark_of(GRANT) == GrantMark("/o/w/e/db", 7, "db-ab12cd-3", "n1", 5)
    assert mark_of(BACK) == GrantMark("/o/w/e/db", 7)
    assert lists(HELD, GRANT)
    assert not lists(EMPTY, GRANT)


@pytest.mark.parametrize(
    ("grant", "found"),
    [
        (GRANT, mark_of(GRANT)),
        (GRANT, GrantMark("/o/w/e/db", 6, "db-ab12cd-2", "n2", 1)),
        (GRANT, GrantMark("/o/w/e/db", 6)),
        (BACK, mark_of(BACK)),
        (BACK, mark_of(GRANT)),
    ],
    ids=["the same", "the former holder", "nobody", "revoked", "not revoked yet"],
)
def test_what_an_earlier_leader_left_half_done_is_what_is_decided(grant: Grant, found: GrantMark) -> None:
    assert caught_up(grant, found) == grant


@pytest.mark.parametrize(
    ("grant", "found", "holder"),
    [
        (GRANT, GrantMark("/o/w/e/db", 9, "db-ab12cd-6", "n2", 4), (9, "n2", 4)),
        (GRANT, GrantMark("/o/w/e/db", 9), (9, "n1", 5)),
        (GRANT, GrantMark("/o/w/e/db", 7), (7, "n1", 5)),
        (BACK, GrantMark("/o/w/e/db", 8, "db-ab12cd-4", "n2", 4), (8, "n2", 4)),
    ],
    ids=["another holds it", "somebody held it", "it was revoked", "it was given on"],
)
def test_what_zookeeper_knows_better_than_a_restored_state_counts(grant: Grant, found: GrantMark, holder: tuple[int, str, int]) -> None:
    after = caught_up(grant, found)
    assert (after.generation, after.node, after.incarnation) == holder
    assert after.revoked


def test_generations_only_grow_and_names_are_of_one_app() -> None:
    app = App("/o/w/e/db", "ab12cd", 1, 1, 0, 1, 1, "")
    first = next_grant(None, app, 1, "n1", 5)
    assert (first.name, first.generation, first.revoked) == ("db-ab12cd", 1, False)
    later = next_grant(replace(first, generation=41, revoked=True), app, 9, "n2", 3)
    assert later == Grant("/o/w/e/db", "db-ab12cd", 42, 9, "n2", 3)
    assert grant_name(replace(app, uid="ffffff")) != first.name


def test_the_wait_is_lease_kill_and_margin() -> None:
    assert wait_of(TimingSettings()) == 11.0
