"""The plan for one instance: every rule, and every state it may find, played through to rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gestalt.agent.plan import Action, Adopt, Count, Forget, Goal, Remove, Settle, Situation, Start, Stop, Wait, plan, wants_restart
from gestalt.agent.records import Ending, InstanceRecord, delay, ended, launching, running, settled
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus
from gestalt.spec.schema import Restart

NAME = "web-0000aa-1"
RIGHT, WRONG = "a" * 16, "b" * 16
CRASH = Ending("exited with code 1", failed=True, exit_code=1)
DONE = Ending("exited with code 0", failed=False, exit_code=0)
REFUSED = Ending("the image is absent", failed=True, refused=True)
RULES = Restart(backoff=1.0, backoff_max=8.0, crash_loop=3, window=100.0)
FRESH = InstanceRecord(NAME, "docker")


def attempt(number: int, state: AttemptState = AttemptState.RUNNING, template: str = RIGHT, **fields: object) -> AttemptStatus:
    return AttemptStatus(AttemptKey(NAME, number), state, f"id{number}", "/a/b", template, **fields)  # type: ignore[arg-type]


def situation(
    *attempts: AttemptStatus, goal: Goal = Goal.RUN, record: InstanceRecord = FRESH, now: float = 50.0, **fields: object
) -> Situation:
    return Situation(goal, record, attempts, now, RIGHT, RULES, **fields)  # type: ignore[arg-type]


def crashed(times: int, at: float = 50.0, rules: Restart = RULES) -> InstanceRecord:
    record = FRESH
    for number in range(1, times + 1):
        record = ended(running(launching(record, number), number, at), number, CRASH, rules, at)
    return record


RAN_ONE = running(launching(FRESH, 1), 1, 10.0)
EXITED, CREATED = AttemptState.EXITED, AttemptState.CREATED


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (situation(), Start(1)),
        (situation(record=launching(FRESH, 1)), Start(1)),
        (situation(attempt(1, CREATED), record=launching(FRESH, 1)), Start(1)),
        (situation(attempt(1)), Adopt(1)),
        (situation(attempt(4)), Adopt(4)),
        (situation(attempt(1), record=RAN_ONE), Wait()),
        (situation(attempt(1), record=RAN_ONE, complaint="check web failed"), Stop(1, "check web failed")),
        (situation(attempt(1, template=WRONG), record=RAN_ONE), Stop(1, "it runs another version")),
        (situation(attempt(1), attempt(2), record=RAN_ONE), Stop(1, "attempt 2 runs too")),
        (situation(attempt(1), attempt(2, EXITED), record=RAN_ONE), Remove(2)),
        (situation(attempt(1), record=crashed(1)), Stop(1, "it ended before and was started by someone else")),
        (situation(attempt(1, EXITED), record=RAN_ONE), Count(1)),
        (situation(record=RAN_ONE), Count(1)),
        (situation(attempt(1, EXITED), record=crashed(1)), Start(2)),
        (situation(attempt(2, EXITED), record=crashed(2)), Wait(51.0)),
        (situation(attempt(2, EXITED), record=crashed(2), now=51.0), Start(3)),
        (situation(attempt(1, EXITED), attempt(2, EXITED), record=crashed(2)), Remove(1)),
        (situation(attempt(1, CREATED), record=ended(launching(FRESH, 1), 1, REFUSED, RULES, 50.0)), Remove(1)),
        (situation(record=ended(launching(FRESH, 1), 1, REFUSED, RULES, 50.0)), Wait(51.0)),
        (situation(attempt(1), goal=Goal.STOP), Stop(1, "it is to stop", drain=True)),
        (situation(attempt(1), attempt(2, EXITED), goal=Goal.STOP), Stop(1, "it is to stop", drain=True)),
        (situation(attempt(2, EXITED), goal=Goal.STOP), Remove(2)),
        (situation(attempt(2, CREATED), goal=Goal.STOP), Remove(2)),
        (situation(goal=Goal.STOP, record=RAN_ONE), Forget()),
        (situation(attempt(1), goal=Goal.END), Stop(1, "its run is over", drain=True)),
        (situation(attempt(1), attempt(2, EXITED), goal=Goal.END), Stop(1, "its run is over", drain=True)),
        (situation(attempt(1, EXITED), attempt(2, EXITED), goal=Goal.END), Remove(1)),
        (situation(attempt(1, EXITED), goal=Goal.END, record=RAN_ONE), Count(1)),
        (situation(attempt(1, EXITED), goal=Goal.END, record=crashed(1)), Wait()),
        (situation(attempt(1, CREATED), goal=Goal.END), Remove(1)),
        (situation(goal=Goal.END, record=RAN_ONE), Forget()),
        (situation(attempt(1), goal=Goal.DISCARD), Stop(1, "nobody wants it", drain=False)),
        (situation(attempt(1), attempt(2), goal=Goal.KEEP), Wait()),
        (situation(attempt(1, EXITED), goal=Goal.KEEP, record=RAN_ONE), Wait()),
    ],
)
def test_rules(seen: Situation, expected: Action) -> None:
    assert plan(seen) == expected


def test_runs_well_for_long_enough_and_is_forgiven() -> None:
    record = running(launching(crashed(2), 3), 3, 60.0)
    assert plan(situation(attempt(3), record=record, well_since=60.0, now=70.0)) == Wait(160.0)
    assert plan(situation(attempt(3), record=record, well_since=None, now=500.0)) == Wait()
    assert plan(situation(attempt(3), record=record, well_since=60.0, now=160.0)) == Settle()
    assert plan(situation(attempt(3), record=settled(record), well_since=60.0, now=160.0)) == Wait()


def test_back_off_doubles_to_its_maximum() -> None:
    rules = RULES.model_copy(update={"crash_loop": 0})
    assert [delay(crashed(times, rules=rules), rules) for times in range(7)] == [0, 0, 1, 2, 4, 8, 8]
    assert delay(crashed(2000, rules=rules), rules) == 8


def test_crash_loop_waits_the_longest_and_holds_until_forgiven() -> None:
    record = crashed(3)
    assert record.crash_loop
    assert delay(record, RULES) == 8.0
    later = ended(running(launching(record, 4), 4, 900.0), 4, CRASH, RULES, 1000.0)
    assert later.crash_loop
    assert not settled(later).crash_loop


def test_exits_apart_from_each_other_are_no_crash_loop() -> None:
    record = FRESH
    for number in range(1, 10):
        record = ended(running(launching(record, number), number, 0), number, CRASH, RULES, number * 60.0)
    assert not record.crash_loop


def test_refused_launches_are_no_crash_loop_and_wait_from_the_first_on() -> None:
    record = FRESH
    for number in range(1, 6):
        record = ended(launching(record, number), number, REFUSED, RULES, 50.0)
        assert delay(record, RULES) == min(2.0 ** (number - 1), 8.0)
    assert not record.crash_loop
    assert record.restarts == 0


def test_an_end_counts_once() -> None:
    record = crashed(2)
    assert ended(record, 2, CRASH, RULES, 90.0) == record


def test_restarts_count_what_ran_before() -> None:
    assert [launching(crashed(times), times + 1).restarts for times in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "ending", "again"),
    [
        ("always", CRASH, True),
        ("always", DONE, True),
        ("always", REFUSED, True),
        ("on-failure", CRASH, True),
        ("on-failure", DONE, False),
        ("on-failure", REFUSED, True),
        ("never", CRASH, False),
        ("never", DONE, False),
        ("never", REFUSED, True),
    ],
)
def test_policies(policy: str, ending: Ending, again: bool) -> None:
    rules = Restart.model_validate({"policy": policy})
    assert wants_restart(ending, rules) is again
    record = ended(running(launching(FRESH, 1), 1, 0.0), 1, ending, rules, 0.0)
    action = plan(replace(situation(attempt(1, EXITED), record=record, now=1e6), restart=rules))
    assert action == (Start(2) if again else Wait())


class Model:
    """The smallest world in which the steps of the plan have their effects."""

    def __init__(self, seen: Situation) -> None:
        self.goal = seen.goal
        self.record = seen.record
        self.there = {item.key.attempt: item for item in seen.attempts}
        self.now = seen.now
        self.forgotten = False

    def situation(self) -> Situation:
        return situation(*(self.there[number] for number in sorted(self.there)), goal=self.goal, record=self.record, now=self.now)

    def running(self) -> list[int]:
        return [number for number, item in self.there.items() if item.state is AttemptState.RUNNING]

    def do(self, action: Action, *, remember: bool = True) -> None:
        """Carry out a step; without `remember` the agent dies before it wrote down what may be written later."""
        match action:
            case Start(number):
                assert not self.running(), f"attempt {number} is started beside {self.running()}"
                self.record = launching(self.record, number)
                self.there[number] = attempt(number)
                self._note(running(self.record, number, self.now), remember)
            case Adopt(number):
                self._note(running(self.record, number, self.now), remember)
            case Count(number):
                self._note(ended(self.record, number, CRASH, RULES, self.now), remember)
            case Stop(number):
                assert number in self.running()
                self.there[number] = attempt(number, EXITED)
            case Remove(number):
                assert number not in self.running(), "what runs is stopped first"
                del self.there[number]
            case Settle():
                self._note(settled(self.record), remember)
            case Forget():
                assert not self.there
                self.forgotten = True
            case Wait(until):
                self.now = until if until is not None else self.now

    def _note(self, record: InstanceRecord, remember: bool) -> None:
        self.record = record if remember else self.record

    def rest(self) -> bool:
        """Play until nothing is left to do; return whether that was reached."""
        for _ in range(30):
            action = plan(self.situation())
            if isinstance(action, Wait) and action.until is None:
                return True
            if self.forgotten:
                return True
            self.do(action)
        return False


def all_situations() -> Iterator[Situation]:
    """Every set of up to three attempts in every state, with every record that may lie beside it."""
    states: list[AttemptStatus | None]
    for states in itertools.product(*([None, *(attempt(number, state) for state in AttemptState)] for number in (1, 2, 3))):  # type: ignore[assignment]
        attempts = tuple(item for item in states if item is not None)
        for last in range(4):
            for done, started in itertools.product(range(last + 1), (False, True)):
                streak = 1 if done else 0
                record = InstanceRecord(NAME, "docker", last, started and last > 0, 1.0, done, 49.0, CRASH if done else None, streak)
                for goal in (Goal.RUN, Goal.STOP, Goal.END, Goal.DISCARD):
                    yield situation(*attempts, goal=goal, record=record)


def test_every_state_comes_to_rest_as_wanted() -> None:
    """Also when the agent dies after any one step and forgets what it had not written yet."""
    seen = 0
    for start in all_situations():
        for cut in range(8):
            model = Model(start)
            for _ in range(cut):
                model.do(plan(model.situation()))
            model.do(plan(model.situation()), remember=False)
            assert model.rest(), f"no rest from {start} cut after {cut} steps"
            if start.goal is Goal.RUN:
                assert len(model.running()) == 1, f"{start} ended with {model.there}"
                assert list(model.there) == model.running(), f"{start} left {model.there}"
            elif start.goal is Goal.END and any(item.state is not AttemptState.CREATED for item in start.attempts):
                assert [item.state for item in model.there.values()] == [EXITED], f"{start} left {model.there}"
                assert model.record.ended >= max(model.there), "how it ended is known"
            else:
                assert model.forgotten
            seen += 1
    assert seen > 10_000


def test_a_good_attempt_is_never_touched() -> None:
    """Whatever lies beside it: the highest attempt that runs, of the right version and not known to have ended, goes on running."""
    for start in all_situations():
        model = Model(start)
        if start.goal is not Goal.RUN or not model.running() or max(model.running()) <= start.record.ended:
            continue
        best = max(model.running())
        model.rest()
        assert model.running() == [best], f"{start} ended with {model.there}"
