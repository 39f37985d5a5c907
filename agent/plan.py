"""What to do next with one instance: a pure function of what is wanted, what is there and what is remembered.

It returns one step; whoever carries it out looks again and asks again. So an interruption between any two steps is nothing
special: the next call starts from what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gestalt.model import Health
from gestalt.plugin.runtime import AttemptState, AttemptStatus
from gestalt.spec.schema import Restart

from .exclusive import Claim
from .records import Ending, InstanceRecord, delay

ISOLATED = "this node is cut off from the cluster"


class Goal(StrEnum):
    """What is to become of an instance.

    KEEP leaves it as it is: nobody has the right to judge it yet, or what is wanted cannot be understood.
    STOP is a wish of the coordinator, and so is END, which keeps what is left of it for its log; DISCARD removes what nobody wants.
    """

    RUN = "run"
    STOP = "stop"
    END = "end"
    DISCARD = "discard"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that the decision depends on. `now` and `well_since` are seconds since boot.

    `complaint`: why liveness checks want the running attempt restarted. `well_since`: since when the running attempt is healthy.
    `claim`: how it stands with the right to run, if it must not run twice. `isolated`: the node is cut off, and it is not to run there.
    `not_before`: when something may be started, if the node waits for the coordinator's word.
    """

    goal: Goal
    record: InstanceRecord
    attempts: tuple[AttemptStatus, ...]
    now: float
    template: str = ""
    restart: Restart = field(default_factory=Restart)
    complaint: str = ""
    health: Health = Health.UNKNOWN
    well_since: float | None = None
    claim: Claim = field(default_factory=Claim)
    isolated: bool = False
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """Launch this attempt; right also when it exists but never ran."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Take:
    """Have the fence take the grant for this attempt, which is launched next."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Note that this attempt runs."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Count:
    """Note that this attempt ended, and how."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End this running attempt. `drain`: its connections get time to end first; `at_once`: it is killed, and not asked."""

    attempt: int
    why: str
    drain: bool = False
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove what is left of this attempt, which does not run."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing is left of the instance: report it gone and drop its record."""


@dataclass(frozen=True, slots=True)
class Settle:
    """It ran well for long enough: reset its back-off."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (None: before something changes)."""

    until: float | None = None


Action = Start | Take | Adopt | Count | Stop | Remove | Forget | Settle | Wait


def plan(situation: Situation) -> Action:
    """Return the one next step. Never two running attempts: a new one is started only when none runs."""
    running = current_attempt(situation.attempts)
    if running is not None and running.state is AttemptState.RUNNING and (why := situation.claim.void()):
        return Stop(running.key.attempt, why, at_once=True)
    match situation.goal:
        case Goal.RUN:
            return _run(situation)
        case Goal.STOP:
            return _clear(situation.attempts, "it is to stop", drain=True)
        case Goal.END:
            return _end(situation)
        case Goal.DISCARD:
            return _clear(situation.attempts, "nobody wants it", drain=False)
        case Goal.KEEP:
            return Wait()


def current_attempt(attempts: Sequence[AttemptStatus]) -> AttemptStatus | None:
    """Return the attempt that stands for the instance: the highest that runs, else the highest."""
    return max(attempts, key=lambda item: (item.state is AttemptState.RUNNING, item.key.attempt), default=None)


def wants_restart(ending: Ending | None, restart: Restart) -> bool:
    """Return whether the policy has an attempt follow this ending. What never ran is always tried again."""
    if ending is None or ending.refused or restart.policy == "always":
        return True
    return restart.policy == "on-failure" and ending.failed


def _clear(attempts: Sequence[AttemptStatus], why: str, *, drain: bool) -> Action:
    if (status := current_attempt(attempts)) is None:
        return Forget()
    if status.state is AttemptState.RUNNING:
        return Stop(status.key.attempt, why, drain)
    return Remove(status.key.attempt)


def _end(situation: Situation) -> Action:
    """Stop what runs, and keep the last attempt that ran. Of what never ran there is nothing to keep."""
    there = {item.key.attempt: item.state for item in situation.attempts}
    exited = [number for number, state in there.items() if state is AttemptState.EXITED]
    if AttemptState.RUNNING in there.values() or not exited:
        return _clear(situation.attempts, "its run is over", drain=True)
    if others := [number for number in there if number != max(exited)]:
        return Remove(min(others))
    return Count(max(exited)) if situation.record.ended < max(exited) else Wait()


def _run(situation: Situation) -> Action:
    running = sorted(item.key.attempt for item in situation.attempts if item.state is AttemptState.RUNNING)
    if not running:
        return _bring_up(situation)
    if len(running) > 1:
        return Stop(running[0], f"attempt {running[-1]} runs too")
    if running[0] <= situation.record.ended:
        return Stop(running[0], "it ended before and was started by someone else")
    return _keep_up(situation, running[0])


def _keep_up(situation: Situation, attempt: int) -> Action:
    record = situation.record
    if situation.isolated:
        return Stop(attempt, ISOLATED)
    if situation.claim.needed and not situation.claim.grant:
        return Stop(attempt, "it has no grant to run")
    status = next(item for item in situation.attempts if item.key.attempt == attempt)
    if status.template != situation.template:
        return Stop(attempt, "it runs another version")
    if record.attempt < attempt or not record.started:
        return Adopt(attempt)
    if situation.complaint:
        return Stop(attempt, situation.complaint)
    others = [item.key.attempt for item in situation.attempts if item.key.attempt != attempt]
    if others:
        return Remove(min(others))
    if record.streak and situation.well_since is not None:
        due = situation.well_since + situation.restart.window
        return Settle() if situation.now >= due else Wait(due)
    return Wait()


def _bring_up(situation: Situation) -> Action:
    record = situation.record
    there = {item.key.attempt: item for item in situation.attempts}
    top = max(record.attempt, *there) if there else record.attempt
    if top == 0:
        return _start(situation, 1)
    if record.ended < top:
        found = there.get(top)
        never_ran = found.state is AttemptState.CREATED if found else not record.started
        return _start(situation, top) if never_ran else Count(top)
    exited = [number for number, item in there.items() if item.state is AttemptState.EXITED]
    junk = [number for number in there if not exited or number != max(exited)]
    if junk:
        return Remove(min(junk))
    if not wants_restart(record.ending, situation.restart):
        return Wait()
    due = record.ended_at + delay(record, situation.restart)
    return Wait(due) if situation.now < due else _start(situation, top + 1)


def _start(situation: Situation, attempt: int) -> Action:
    """Start it, as soon as it may run: what must not run twice is held by the fence first."""
    claim = situation.claim
    if situation.isolated:
        return Wait()
    if situation.now < situation.not_before:
        return Wait(situation.not_before)
    if claim.covers(attempt):
        return Start(attempt)
    if not claim.grant or not claim.standing.answers:
        return Wait()
    return Wait(claim.retry_at) if situation.now < claim.retry_at else Take(attempt)
