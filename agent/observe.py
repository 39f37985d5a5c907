"""What is told of an instance: a pure function of the same situation that the plan decides on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gestalt.model import CheckStatus, Health, Observed, Phase
from gestalt.plugin.runtime import AttemptState, AttemptStatus
from gestalt.units import show_duration

from .plan import ISOLATED, Action, Forget, Goal, Remove, Situation, Start, Stop, Wait, current_attempt, wants_restart
from .records import Ending, InstanceRecord
from .returning import WAITS


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the checks of the running attempt say."""

    statuses: tuple[CheckStatus, ...] = ()
    health: Health = Health.UNKNOWN
    ready: bool = False
    complaint: str = ""


def observe(situation: Situation, action: Action, checks: CheckReport, activity: str = "") -> Observed:
    """Return the observation that goes with the next step. `activity`: what is being done right now, as a sentence."""
    record, current = situation.record, current_attempt(situation.attempts)
    if isinstance(action, Start):
        return _observed(record, action.attempt, Phase.STARTING, activity or "starts")
    if situation.goal in (Goal.STOP, Goal.DISCARD) or (situation.goal is Goal.END and isinstance(action, Remove | Forget)):
        return _stopping(situation, current, checks, activity)
    if current is not None and current.state is AttemptState.RUNNING:
        return _running(situation, action, current, checks, activity)
    if record.ending is not None and record.ended:
        return _ended(situation, record.ending)
    return _observed(record, record.attempt, Phase.PLACED, activity or _obstacle(situation) or "waits to be started")


def assume(record: InstanceRecord, checks: CheckReport, why: str) -> Observed:
    """Return what is told while the runtime does not answer: what was last known. Unknown is not unhealthy, and not gone."""
    if record.started and record.ended < record.attempt:
        return _observed(record, record.attempt, Phase.RUNNING, why, health=checks.health, ready=checks.ready, checks=checks.statuses)
    failed = record.ending is None or record.ending.failed
    phase = Phase.PLACED if not record.ended else Phase.FAILED if failed else Phase.STOPPED
    return _observed(record, record.attempt, phase, why)


def remembered(record: InstanceRecord) -> CheckReport:
    """Return what the checks said last, for as long as nobody knows better."""
    runs = record.started and record.ended < record.attempt
    well = runs and all(item.health is Health.HEALTHY for item in record.checks)
    return CheckReport(record.checks, Health.HEALTHY if well else Health.UNKNOWN, ready=well)


def _running(situation: Situation, action: Action, current: AttemptStatus, checks: CheckReport, activity: str) -> Observed:
    record, attempt = situation.record, current.key.attempt
    if isinstance(action, Stop) and action.attempt == attempt:
        return _observed(record, attempt, Phase.STOPPING, activity or action.why, runtime_id=current.runtime_id, checks=checks.statuses)
    return _observed(
        record,
        attempt,
        Phase.RUNNING,
        _complaint(checks),
        health=checks.health,
        ready=checks.ready,
        checks=checks.statuses,
        runtime_id=current.runtime_id,
    )


def _complaint(checks: CheckReport) -> str:
    if checks.health is Health.HEALTHY:
        return ""
    worst = next((item for item in checks.statuses if item.health is checks.health), None)
    if worst is None:
        return ""
    word = "fails" if checks.health is Health.UNHEALTHY else "has not passed yet"
    return f"check {worst.name} {word}" + (f": {worst.output}" if worst.output else "")


def _stopping(situation: Situation, current: AttemptStatus | None, checks: CheckReport, activity: str) -> Observed:
    """Tell of what is to go. When nothing is left of it that is told even if its grant cannot be handed back: the leader waits for it."""
    why = "is removed: nobody wants it" if situation.goal is Goal.DISCARD else "stops"
    if current is None:
        return _observed(situation.record, situation.record.attempt, Phase.STOPPED, activity or why)
    runtime_id, attempt = current.runtime_id, current.key.attempt
    return _observed(situation.record, attempt, Phase.STOPPING, activity or why, runtime_id=runtime_id, checks=checks.statuses)


def _ended(situation: Situation, ending: Ending) -> Observed:
    record = situation.record
    reason = ending.reason
    if obstacle := _obstacle(situation):
        reason += f"; {obstacle}"
    elif not wants_restart(ending, situation.restart):
        reason += f"; its restart policy is {situation.restart.policy}"
    elif record.crash_loop:
        reason += f"; it keeps crashing, next attempt every {show_duration(situation.restart.backoff_max)}"
    told = _observed(record, record.ended, Phase.FAILED if ending.failed else Phase.STOPPED, reason)
    is_over = situation.goal is Goal.END or not wants_restart(ending, situation.restart)
    return replace(told, ended=is_over, interrupted=ending.interrupted)


def _obstacle(situation: Situation) -> str:
    """Return why nothing may be started, whatever its restart policy says."""
    waits = WAITS if situation.now < situation.not_before else ""
    return ISOLATED if situation.isolated else waits or situation.claim.obstacle()


def _observed(
    record: InstanceRecord,
    attempt: int,
    phase: Phase,
    reason: str,
    *,
    health: Health = Health.UNKNOWN,
    ready: bool = False,
    checks: tuple[CheckStatus, ...] = (),
    runtime_id: str = "",
) -> Observed:
    """Fill in what the record knows. How the last attempt ended is told while nothing runs, and as long as it keeps crashing."""
    told = record.ending if phase in (Phase.FAILED, Phase.STOPPED) or record.crash_loop else None
    return Observed(
        instance=record.instance,
        attempt=attempt,
        phase=phase,
        health=health,
        ready=ready,
        reason=reason,
        exit_code=told.exit_code if told else None,
        oom_killed=told.oom_killed if told else False,
        crash_loop=record.crash_loop,
        restarts=record.restarts,
        log_tail=told.log_tail if told else (),
        runtime_id=runtime_id,
        checks=checks,
        port_taken=told.port_taken if told and phase is Phase.FAILED else 0,
    )


def retry_at(situation: Situation, action: Action) -> float:
    """Return when the next attempt is due, in seconds since boot; 0 = none is waiting."""
    waits = isinstance(action, Wait) and situation.goal is Goal.RUN and not _runs(situation) and not _obstacle(situation)
    return (action.until or 0.0) if waits and isinstance(action, Wait) else 0.0


def since(record: InstanceRecord, observed: Observed) -> float:
    """Return when the instance came into its phase, in seconds since boot, as far as that outlives the agent; 0 = nobody knows."""
    if observed.phase is Phase.RUNNING and observed.attempt == record.attempt and record.started:
        return record.started_at
    if observed.phase in (Phase.FAILED, Phase.STOPPED) and observed.attempt == record.ended:
        return record.ended_at
    return 0.0


def _runs(situation: Situation) -> bool:
    return any(item.state is AttemptState.RUNNING for item in situation.attempts)
