"""What has to be done next for the runs of a job: pure functions from what is wanted and what is known to steps.

A run starts instances until enough of them have ended well. Each instance ends once: that its end was noted is part of the commit that
counts it. What was lost with its node is run again, so the work of an instance may be done more than once, and is done at least once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace

from gestalt.model import Observed, Phase
from gestalt.spec.schema import AppSpec, Job, JobKeep, Restart
from gestalt.units import show_duration

from .brakes import UNLIMITED
from .reconcile import View, given_up_in, is_given_up
from .records import App, Placed, Result, Run, RunState

RESULTS = 100
"""So many ends of instances are kept with a run, the newest ones; all of them are counted."""
LOGS = 200
"""Instances of a job that have ended and are kept for their logs: the oldest go first."""
MAX_EXPONENT = 30


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as the leader knows it.

    `spec`: the template of its version; `views`: its instances whose end is not noted; `elapsed`: seconds since it began; `since_failure`:
    seconds since an instance failed last, as far as this leader knows.
    """

    run: Run
    spec: AppSpec
    views: tuple[View, ...]
    elapsed: float = 0.0
    since_failure: float = 0.0

    @property
    def job(self) -> Job:
        return job_of(self.spec)


@dataclass(frozen=True, slots=True)
class Moment:
    """What else counts: the time, for people; the names of nodes; how many lost instances may be given up now."""

    at: str
    names: Mapping[str, str]
    replaceable: int = UNLIMITED


@dataclass(frozen=True, slots=True)
class RunDecision:
    """A run as it is to be, and its instances: `start` so many, note the end of these serials, have those stopped, forget others.

    `keep`: those of them that are stopped and whose logs are kept, as of what ends by itself.
    `waits`: why it does not get on, empty when it does. `wake_in`: seconds until time alone may change the decision.
    """

    run: Run
    start: int = 0
    ended: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    forget: tuple[int, ...] = ()
    waits: str = ""
    wake_in: float = math.inf


def job_of(spec: AppSpec) -> Job:
    """Return how the runs of a job go."""
    return spec.job or Job()


def back_off(failed: int, restart: Restart) -> float:
    """Return for how long a run starts nothing after a failure: the first retry is at once, the second after `backoff`, then doubling."""
    return 0.0 if failed < 2 else float(min(restart.backoff * 2 ** min(failed - 2, MAX_EXPONENT), restart.backoff_max))


def decide_run(case: RunView, moment: Moment, stopped: str = "") -> RunDecision:
    """Decide for one run that is under way. `stopped`: why it is to end whatever became of it, empty = it is not."""
    found = [_Found(view, case, moment) for view in case.views]
    lost = [item for item in found if item.state == "lost"][: moment.replaceable]
    over = [item for item in found if item.state in ("succeeded", "failed")]
    run = _counted(case.run, [*over, *lost])
    unfinished = [item.view for item in (*over, *lost) if item.is_to_stop]
    forget = {item.view.placed.serial for item in lost if not item.is_to_stop}
    ended = tuple(item.view.placed.serial for item in over if item.is_ended)
    held = [item.view for item in found if item not in over and item not in lost]
    live = [view for view in held if not view.placed.stop and not view.is_misplaced(case.spec)]
    stop = unfinished + [view for view in held if view.is_misplaced(case.spec)]
    forget |= {view.placed.serial for view in case.views if view.placed.stop and (view.is_over or is_given_up(view, case.spec))}
    run = _ended(run, case, moment.at, stopped)
    is_over = run.state is not RunState.RUNNING
    keep = tuple(view.placed.serial for view in live if is_over and may_be_kept(view) and not case.spec.placement.exclusive)
    if is_over:
        stop += live
    serials = tuple(view.placed.serial for view in stop if not view.placed.stop)
    at_work = sum(view.placed.serial not in forget for view in held) + len(unfinished)
    failed_now = run.failed > case.run.failed
    pause = back_off(run.failed, case.spec.restart) - (0.0 if failed_now else case.since_failure)
    start = _to_start(run, case.job, len(live), at_work) if pause <= 0 else 0
    wake_in = _wake_in(case, live, pause) if run.state is RunState.RUNNING else math.inf
    return RunDecision(run, start, ended, serials, keep, tuple(sorted(forget)), _waits(run, live, moment, pause), wake_in)


def may_be_kept(view: View) -> bool:
    """Tell whether the log of an instance that is stopped may be kept where it is: a drained node is left."""
    return not view.moving


class _Found:
    """One instance of a run and what became of it: `state` is succeeded, failed, lost, or empty while it goes on.

    `is_ended`: it ended by itself; `is_to_stop`: it counts no more, and may still be at work.
    """

    def __init__(self, view: View, case: RunView, moment: Moment) -> None:
        self.view, self._moment = view, moment
        self.is_ended = self.is_to_stop = False
        self.state, self.message = self._judge(case)

    def _judge(self, case: RunView) -> tuple[str, str]:
        seen = self.view.observed
        if self.view.placed.stop:
            return "", ""
        if is_given_up(self.view, case.spec):
            return "lost", f"node {self._node} was lost with it"
        if self.view.forced and not (self.view.heard and seen is not None and seen.ended):
            self.is_to_stop = True
            return "lost", f"node {self._node} was drained, and the time to leave was over"
        if not self.view.heard or seen is None:
            return self._late(case, "the agent has not started it")
        if seen.ended and seen.interrupted:
            return "lost", f"the machine of node {self._node} went down, or was cut off"
        if seen.ended:
            self.is_ended = True
            return ("succeeded" if _is_well(seen) else "failed"), "" if _is_well(seen) else seen.reason.partition("; its restart policy")[0]
        if seen.phase in (Phase.RUNNING, Phase.STOPPING) or self.view.is_misplaced(case.spec):
            return "", ""
        return self._late(case, seen.reason or seen.phase.name.lower())

    def _late(self, case: RunView, why: str) -> tuple[str, str]:
        """What never runs counts as failed in time, or a run without a deadline would wait for it for ever."""
        limit = case.spec.update.health_deadline
        is_late = self.view.heard and self.view.waiting >= limit
        self.is_to_stop = is_late
        return ("failed", f"it did not start within {show_duration(limit)}: {why}") if is_late else ("", "")

    @property
    def _node(self) -> str:
        return self._moment.names.get(self.view.placed.node, self.view.placed.node)

    @property
    def result(self) -> Result:
        code = self.view.observed.exit_code if self.is_ended and self.view.observed is not None else None
        return Result(self.view.placed.serial, self._node, self.state, self._moment.at, self.message[:500], code)


def _is_well(seen: Observed) -> bool:
    return seen.phase is Phase.STOPPED and seen.exit_code == 0


def _counted(run: Run, found: Iterable[_Found]) -> Run:
    results = [item.result for item in found]
    counts = {state: sum(item.state == state for item in results) for state in ("succeeded", "failed", "lost")}
    return replace(
        run,
        succeeded=run.succeeded + counts["succeeded"],
        failed=run.failed + counts["failed"],
        lost=run.lost + counts["lost"],
        results=(*run.results, *results)[-RESULTS:],
    )


def _ended(run: Run, case: RunView, at: str, stopped: str) -> Run:
    """Return the run with its outcome, if it has one."""
    job = case.job
    if run.succeeded >= job.completions:
        return replace(run, state=RunState.SUCCEEDED, message=f"{run.succeeded} of {job.completions} ended well", ended_at=at)
    if run.cancelled_by:
        message = f"cancelled by {run.cancelled_by}: {run.succeeded} of {job.completions} had ended well"
        return replace(run, state=RunState.CANCELLED, message=message, ended_at=at)
    if stopped:
        return replace(run, state=RunState.STOPPED, message=f"{stopped}: {run.succeeded} of {job.completions} had ended well", ended_at=at)
    if run.failed > job.retries:
        last = next((item for item in reversed(run.results) if item.state == "failed"), None)
        why = last.message if last is not None else ""
        tried = f", {job.retries} retries are used up" if job.retries else ", and there are no retries"
        return replace(run, state=RunState.FAILED, message=f"an instance failed: {why}{tried}", ended_at=at)
    if job.deadline and case.elapsed >= job.deadline:
        message = f"the deadline of {show_duration(job.deadline)} is over: {run.succeeded} of {job.completions} had ended well"
        return replace(run, state=RunState.FAILED, message=message, ended_at=at)
    return run


def _to_start(run: Run, job: Job, live: int, at_work: int) -> int:
    if run.state is not RunState.RUNNING:
        return 0
    return max(0, min(job.completions - run.succeeded - live, job.parallelism - at_work))


def _waits(run: Run, live: list[View], moment: Moment, pause: float) -> str:
    if run.state is not RunState.RUNNING:
        return ""
    drained = sorted({moment.names.get(view.placed.node, view.placed.node) for view in live if view.moving})
    if drained:
        return f"run {run.id} is at work on node {', '.join(drained)}, which is being drained: it is let end, and nothing new starts there"
    away = sorted({moment.names.get(view.placed.node, view.placed.node) for view in live if view.away is not None})
    if away:
        return f"run {run.id} waits for node {', '.join(away)}"
    return f"run {run.id} has {run.failed} failures: the next instance starts in {show_duration(pause)}" if pause > 0 else ""


def _wake_in(case: RunView, live: list[View], pause: float) -> float:
    times = [pause, case.job.deadline - case.elapsed, given_up_in(case.views, case.spec)]
    times += [
        case.spec.update.health_deadline - view.waiting
        for view in live
        if view.observed is None or not (view.observed.ended or view.observed.phase in (Phase.RUNNING, Phase.STOPPING))
    ]
    return min((time for time in times if time > 0), default=math.inf)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is to become of what ended: have these serials stopped and removed, forget those, delete the runs of these ids."""

    stop: tuple[int, ...]
    forget: tuple[int, ...]
    delete: tuple[str, ...]
    wake_in: float


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended of a job: `ages`: seconds since its runs did, by id; those under way are not in it. `views`: instances whose end is noted.

    `lonely`: the versions of which only one instance may exist: what ended makes way for the next.
    """

    ages: Mapping[str, float]
    views: tuple[View, ...]
    lonely: frozenset[int] = frozenset()


def keep_ended(app: App, spec: AppSpec, runs: Iterable[Run], ended: Ended) -> Kept:
    """Say what is kept of runs that ended, and of ended instances.

    Args:
        app: the job.
        spec: the template of its wanted version.
        runs: all its runs, oldest first.
        ended: those of them that ended, and instances.
    """
    keep, ages, there = job_of(spec).keep, ended.ages, ended.views
    over = [run for run in runs if run.id in ages]
    dropped = _dropped(keep, over, ages)
    beyond = {view.placed.serial for view in sorted(there, key=lambda item: item.placed.serial)[: max(0, len(there) - LOGS)]}
    known = {run.id for run in runs} - dropped
    lonely = {view.placed.serial for view in there if view.placed.version in ended.lonely}
    unwanted = [view for view in there if _is_unwanted(app, view, known) or view.placed.serial in beyond | lonely]
    forget = [view for view in there if view.gone or (view in unwanted and (view.is_over or is_given_up(view, spec)))]
    left = {view.placed.run for view in there} - {view.placed.run for view in forget}
    stop = tuple(view.placed.serial for view in unwanted if not view.placed.stop and view not in forget)
    wake_in = min((keep.time - ages[run.id] for run in over if run.id not in dropped), default=math.inf)
    return Kept(stop, tuple(view.placed.serial for view in forget), tuple(run for run in dropped if run not in left), max(wake_in, 0.0))


def _dropped(keep: JobKeep, over: list[Run], ages: Mapping[str, float]) -> set[str]:
    newest = sorted(over, key=lambda run: ages[run.id])[: keep.runs]
    return {run.id for run in over if run not in newest or ages[run.id] >= keep.time}


def _is_unwanted(app: App, view: View, known: set[str]) -> bool:
    """Tell whether an ended instance is to go: it is kept with its run, and a drained node is left."""
    return view.placed.stop or view.moving or app.deleting or view.placed.run not in known


def marked(item: Placed, stop: Set[int], ended: Set[int], keep: Set[int]) -> Placed:
    """Return an instance with what was decided about it: what was stopped to be kept has ended then."""
    if item.serial in ended:
        return replace(item, stop=item.stop and not item.keep, ended=True, keep=False)
    return replace(item, stop=item.stop or item.serial in stop, keep=item.serial in keep)
