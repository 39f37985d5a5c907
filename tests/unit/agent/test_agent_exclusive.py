"""What must never run twice, decided on one node: when it may start, when it must end at once, who ends it when; and cut-off nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gestalt.agent import guard as guard_module
from gestalt.agent.exclusive import NO_GRANT, NOT_HELD, OUTDATED, SILENT, Claim, Standing
from gestalt.agent.failsafe import Promised, extension
from gestalt.agent.fence_state import HeldHere, LeaseState, parse_lease_state
from gestalt.agent.guard import Guard, over
from gestalt.agent.isolation import Isolation, judge
from gestalt.agent.observe import CheckReport, observe, retry_at
from gestalt.agent.plan import ISOLATED, Count, Forget, Goal, Remove, Situation, Start, Stop, Take, Wait, plan
from gestalt.agent.records import Ending, InstanceRecord, ended, launching, running
from gestalt.model import Phase
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus
from gestalt.spec.schema import Restart

NAME = "web-0000aa-1"
RULES = Restart(backoff=1.0)
FRESH = InstanceRecord(NAME, "docker")
RAN = running(launching(FRESH, 1), 1, 10.0)
ENDED = ended(RAN, 1, Ending("was ended by signal 9", failed=True), RULES, 20.0)
EXITED, CREATED = AttemptState.EXITED, AttemptState.CREATED
HELD = Standing(answers=True, held=3, fresh=True)
FREE = Standing(answers=True)
NEEDED = Claim(needed=True, grant=3, standing=FREE)
TAKEN = replace(NEEDED, standing=HELD, attempt=1)


def attempt(number: int = 1, state: AttemptState = AttemptState.RUNNING) -> AttemptStatus:
    return AttemptStatus(AttemptKey(NAME, number), state, f"id{number}", "/a/b", "t")


def situation(
    *attempts: AttemptStatus, claim: Claim = NEEDED, goal: Goal = Goal.RUN, record: InstanceRecord = FRESH, isolated: bool = False
) -> Situation:
    return Situation(goal, record, attempts, 50.0, "t", RULES, claim=claim, isolated=isolated)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (situation(), Take(1)),
        (situation(claim=TAKEN), Start(1)),
        (situation(claim=replace(TAKEN, standing=replace(HELD, fresh=False))), Take(1)),
        (situation(claim=replace(TAKEN, standing=replace(HELD, held=2))), Take(1)),
        (situation(claim=replace(NEEDED, grant=0)), Wait()),
        (situation(claim=replace(NEEDED, standing=Standing())), Wait()),
        (situation(claim=replace(TAKEN, standing=replace(HELD, answers=False))), Wait()),
        (situation(claim=replace(NEEDED, refusal="no", retry_at=51.0)), Wait(51.0)),
        (situation(claim=replace(NEEDED, refusal="no", retry_at=50.0)), Take(1)),
        (situation(attempt(state=CREATED), record=launching(FRESH, 1)), Take(1)),
        (situation(attempt(state=CREATED), record=launching(FRESH, 1), claim=TAKEN), Start(1)),
        (situation(attempt(), record=RAN, claim=TAKEN), Wait()),
        (situation(attempt(), record=RAN, claim=replace(TAKEN, attempt=0)), Wait()),  # the agent was started again
        (situation(attempt(), record=RAN, claim=replace(TAKEN, grant=2)), Wait()),
        (situation(attempt(), record=RAN), Stop(1, NOT_HELD, at_once=True)),
        (situation(attempt(), record=RAN, claim=replace(TAKEN, grant=4)), Stop(1, OUTDATED, at_once=True)),
        (situation(attempt(), record=RAN, claim=replace(TAKEN, grant=0)), Stop(1, "it has no grant to run")),
        (situation(attempt(), record=RAN, claim=replace(NEEDED, standing=Standing())), Wait()),
        (situation(attempt(), record=RAN, goal=Goal.KEEP), Stop(1, NOT_HELD, at_once=True)),
        (situation(attempt(), record=RAN, goal=Goal.STOP), Stop(1, NOT_HELD, at_once=True)),
        (situation(attempt(), record=RAN, goal=Goal.STOP, claim=TAKEN), Stop(1, "it is to stop", drain=True)),
        (situation(attempt(), record=RAN, goal=Goal.KEEP, claim=replace(TAKEN, grant=0)), Wait()),
        (situation(attempt(state=EXITED), record=RAN), Count(1)),
        (situation(attempt(state=EXITED), record=ENDED, claim=TAKEN), Take(2)),
        (situation(attempt(state=EXITED), record=ENDED, claim=replace(TAKEN, attempt=2)), Start(2)),
        (situation(attempt(state=EXITED), goal=Goal.STOP), Remove(1)),
        (situation(goal=Goal.STOP, claim=TAKEN), Forget()),
    ],
)
def test_the_grant_decides(seen: Situation, expected: object) -> None:
    assert plan(seen) == expected


def test_what_is_not_exclusive_needs_nothing() -> None:
    assert plan(situation(claim=Claim())) == Start(1)
    assert plan(situation(attempt(), record=RAN, claim=Claim())) == Wait()


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (replace(NEEDED, grant=0), NO_GRANT),
        (replace(NEEDED, standing=Standing()), SILENT),
        (replace(NEEDED, refusal="the grant is nobody's", retry_at=60.0), "the grant is nobody's"),
    ],
)
def test_it_is_told_why_nothing_starts(claim: Claim, why: str) -> None:
    fresh, after = situation(claim=claim), situation(attempt(state=EXITED), record=ENDED, claim=claim)
    told = observe(fresh, plan(fresh), CheckReport())
    assert (told.phase, told.reason) == (Phase.PLACED, why)
    told = observe(after, plan(after), CheckReport())
    assert (told.phase, told.reason) == (Phase.FAILED, f"was ended by signal 9; {why}")
    assert retry_at(after, plan(after)) == 0.0, "each look at the fence would be told"


@pytest.mark.parametrize("goal", [Goal.STOP, Goal.DISCARD])
def test_when_nothing_is_left_that_is_told_though_the_fence_may_hang_to_which_the_grant_is_handed_back(goal: Goal) -> None:
    silent = replace(TAKEN, standing=Standing())
    left = situation(attempt(state=EXITED), record=ENDED, claim=silent, goal=goal)
    assert observe(left, plan(left), CheckReport()).phase is Phase.STOPPING
    nothing = situation(record=ENDED, claim=silent, goal=goal)
    assert observe(nothing, plan(nothing), CheckReport()).phase is Phase.STOPPED


def test_on_a_node_that_is_cut_off_it_stops_and_waits() -> None:
    ordinary = Claim()
    assert plan(situation(attempt(), record=RAN, claim=ordinary, isolated=True)) == Stop(1, ISOLATED)
    assert plan(situation(attempt(state=EXITED), record=RAN, claim=ordinary, isolated=True)) == Count(1)
    after = situation(attempt(state=EXITED), record=ENDED, claim=ordinary, isolated=True)
    assert plan(after) == Wait()
    assert ISOLATED in observe(after, plan(after), CheckReport()).reason
    assert plan(replace(after, isolated=False)) == Start(2)


LEASE = LeaseState(1, until=100.0, length=8.0, kill=2.0, held={"a": HeldHere(3, ("/a",)), "b": HeldHere(1, ("/b",), True, True)})


def test_the_guard_leaves_the_fence_half_of_the_time() -> None:
    assert over(LEASE, heard=95.0, since=0.0) == {"a": 101.0, "b": 96.0}
    assert over(LEASE, heard=95.0, since=110.0) == {"a": 111.0, "b": 111.0}
    assert over(LeaseState(), heard=95.0, since=0.0) == {}


def test_what_the_fence_says_comes_back_as_it_was() -> None:
    assert parse_lease_state(LEASE.document()) == LEASE
    assert LEASE.standing() == {"a": 3, "b": 1}
    assert replace(LEASE, held={}, closed=frozenset({"c"})).standing() == {"c": 0}


def test_a_fence_of_an_older_version_is_understood() -> None:
    document = LEASE.document()
    for what in document["held"].values():
        del what["ending"]
    assert not parse_lease_state(document).held["b"].ending


@pytest.mark.parametrize(
    ("promises", "counts_from"),
    [
        ([], None),
        ([Promised("x", 11.0)], 50.0),
        ([Promised("x", 11.0), Promised("y", 10.0)], 50.0),
        ([Promised("x", 11.0), Promised("y", 7.0)], 47.0),
        ([Promised("x", 11.0), Promised("y", reason="it leads")], None),
    ],
)
def test_every_promise_counts_and_the_shortest_decides(promises: list[Promised], counts_from: float | None) -> None:
    """8 s of lease and 2 s for killing fit into 10 s of promise."""
    assert extension(50.0, promises, LEASE) == counts_from


def test_a_node_is_cut_off_when_nobody_hears_it_for_long_enough() -> None:
    state = Isolation()
    for now, member, session, cut_off in (
        (0.0, True, False, False),
        (1.0, False, True, False),
        (2.0, False, False, False),
        (4.9, False, False, False),
        (5.0, False, False, True),
        (9.0, False, False, True),
        (9.5, False, True, False),
        (10.0, False, False, False),
        (13.0, False, False, True),
        (13.5, True, False, False),
    ):
        state = judge(state, member=member, session=session, now=now, settled=3.0)
        assert state.cut_off is cut_off, now


async def test_the_guard_hears_the_fence_once_after_a_stall_and_then_ends_what_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, killed = 1000.0, list[str]()

    async def kill(paths: Sequence[str], deadline: float) -> bool:
        killed.extend(paths)
        return True

    monkeypatch.setattr(guard_module, "boottime", lambda: now)
    monkeypatch.setattr(guard_module, "kill_all", kill)
    guard = Guard(tmp_path)
    held = {"web-1": HeldHere(1, ("/sys/fs/cgroup/pids/web-1",))}

    async def step_after(seconds: float) -> None:
        nonlocal now
        guard._rested, now = now, now + seconds
        await guard._step()

    guard.take(LeaseState(1, until=now + 8.0, held=held))
    await step_after(20.0)
    assert killed == [], "a living fence has said meanwhile that it renewed"
    guard.take(LeaseState(1, until=now + 8.0, held=held))
    await step_after(20.0)
    assert killed == [], "so it has again"
    await step_after(20.0)
    assert killed == ["/sys/fs/cgroup/pids/web-1"], "one that hangs says nothing, however seldom we have a turn"
