"""Runs of jobs: how one is asked for, and how one is decided about and shown. What is to be done is said by `jobs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.schema import AppSpec

from . import run_cancel
from .advance import Case, erase, put_grant
from .changes import MAX_INSTANCES, Asked
from .jobs import Ended, Kept, Moment, RunDecision, RunView, decide_run, job_of, keep_ended, marked, may_be_kept
from .periodic import due, run_id
from .reconcile import View, is_given_up
from .records import App, Placed, Placements, Run, RunState, Step, Task, TaskState, Verb, Version
from .scheduler.fleet import Nodes
from .scheduler.place import place
from .scheduler.shortage import Why
from .state import Draft, State, run_key, runs_in

MAX_RUNS = 50
"""Runs of one job that are under way at once."""
RETRY = 1.0
"""Seconds until lost instances are looked at again that may not be replaced yet."""
SCHEDULE = "schedule"
"""Who asks for the runs that a schedule starts."""
VALUE_MAX = 32 * 1024

_OUTCOME = {
    RunState.SUCCEEDED: TaskState.SUCCEEDED,
    RunState.FAILED: TaskState.FAILED,
    RunState.STOPPED: TaskState.SUPERSEDED,
    RunState.CANCELLED: TaskState.SUPERSEDED,
}


def begin(draft: Draft, path: str, parameters: Mapping[str, str], asked: Asked) -> Task:
    """Begin a run of a job, with a task that ends with it.

    Raises:
        GestaltError: REFUSED, when it is no job, is stopped, or has too many runs under way; INVALID, for parameters that do not fit.
    """
    app = draft.app(path)
    if app is None:
        raise GestaltError(Kind.NOT_FOUND, f"there is no app {path}", hint="`gestaltctl ps` lists what there is")
    version = draft.version(path, app.version)
    assert version is not None, "the wanted version of an app always exists"
    if version.spec.kind != "job":
        raise GestaltError(Kind.REFUSED, f"{path} is no job, but a {version.spec.kind}", hint="its description has to say kind: job")
    if app.deleting or app.stopped:
        hint = "launch it again when it is gone" if app.deleting else f"start it: gestaltctl start {path}"
        raise GestaltError(Kind.REFUSED, f"{path} is {'being deleted' if app.deleting else 'stopped'}", hint=hint)
    if sum(run.state is RunState.RUNNING for run in runs_in(draft, path)) >= MAX_RUNS:
        hint = f"wait for some of them: gestaltctl runs {path}"
        raise GestaltError(Kind.REFUSED, f"{path} has {MAX_RUNS} runs under way, which is as many as there may be", hint=hint)
    return _begin(draft, app, version.spec, checked(version.spec, parameters), asked)


def _begin(draft: Draft, app: App, spec: AppSpec, values: dict[str, str], asked: Asked) -> Task:
    draft.put(Run(app.path, asked.task, app.version, asked.by, asked.at, values))
    task = Task(asked.task, Verb.RUN, app.path, asked.by, asked.at)
    draft.put_task(task)
    draft.tell("run.started", asked.task, f"{asked.by} started a run of {app.path}", app.path)
    return task


def keep_to_schedule(draft: Draft, app: App, spec: AppSpec, at: str) -> tuple[App, float]:
    """Begin the run that a schedule asks for now, if any; return the job as it is to be, and when to look again."""
    schedule = job_of(spec).schedule
    if schedule is None or app.stopped or app.deleting:
        return app, math.inf
    under_way = [run.id for run in runs_in(draft, app.path) if run.state is RunState.RUNNING]
    found = due(schedule, app.fired, datetime.fromisoformat(at).astimezone(UTC), under_way[0] if under_way else "")
    if found.told:
        draft.tell("run.left-out", app.path, f"{app.path}: {found.told}", app.path)
    if found.run is not None:
        identity = run_id(app, found.run)
        if len(under_way) >= MAX_RUNS:
            draft.tell("run.left-out", app.path, f"{app.path}: run {identity} is left out: {MAX_RUNS} others are under way", app.path)
        elif run_key(app.path, identity) not in draft.base.runs:
            _begin(draft, app, spec, checked(spec, {}), Asked(SCHEDULE, at, 0, identity, ""))
    return replace(app, fired=found.fired.isoformat()), found.wake_in


def checked(spec: AppSpec, parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a run: what was set, and the defaults of the rest.

    Raises:
        GestaltError: INVALID, with every mistake.
    """
    known = job_of(spec).parameters
    allowed = ", ".join(known) or "none: the job has no parameters"
    details = [Detail(f"parameters.{name}", "is not a parameter of the job", allowed) for name in parameters if name not in known]
    missing = [name for name, item in known.items() if item.required and name not in parameters]
    details += [Detail(f"parameters.{name}", "is missing, and required", f"--set {name}=value") for name in missing]
    long = [name for name, value in parameters.items() if len(value) > VALUE_MAX or "\0" in value]
    details += [
        Detail(f"parameters.{name}", "is too long, or holds a zero byte", f"text of at most {VALUE_MAX} characters") for name in long
    ]
    if details:
        raise GestaltError(Kind.INVALID, "; ".join(f"{item.field} {item.problem}" for item in details), details=details)
    return {name: parameters.get(name, item.default) for name, item in known.items()}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision for a job is bound to: the monotonic time, how many lost instances may be given up, how nodes are asked for.

    `held`: why nothing lost is replaced at the moment, empty = it is.
    """

    now: float
    replaceable: int
    nodes: Callable[[], Nodes]
    held: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What follows from a decision besides records: why something waits, when to look again, how many lost instances were given up."""

    waits: Why
    wake_in: float
    lost: int


class Jobs:
    """Decides about jobs, and knows for how long their runs go on.

    By the wall clock it reckons what was before this leader, by the monotonic one what comes then.
    """

    def __init__(self) -> None:
        self._began: dict[tuple[str, str], float] = {}
        self._failures: dict[str, tuple[int, float]] = {}

    def decide(self, draft: Draft, case: Case, terms: Terms) -> Told:
        """Put what is right now for a job into the draft."""
        app, next_due = keep_to_schedule(draft, case.app, case.spec, case.at)
        case = replace(case, app=app)
        runs, stopped = runs_in(draft, app.path), _stopped(app)
        moment = Moment(case.at, case.names, terms.replaceable)
        decided = []
        for run in runs:
            if run.state is RunState.RUNNING:
                decision = decide_run(self._view(draft, case, run, terms.now), moment, stopped)
                lost = decision.run.lost - run.lost
                moment = replace(moment, replaceable=moment.replaceable - lost)
                decided.append(decision)
            else:
                self._failures.pop(run.id, None)
        ages = {run.id: self._elapsed(run, run.ended_at, case.at, terms.now) for run in runs if run.state is not RunState.RUNNING}
        there = tuple(view for view in case.views if view.placed.ended)
        kept = keep_ended(case.app, case.spec, runs, Ended(ages, there, _lonely(draft, case)))
        placements = _settled(draft, case, decided, kept)
        for decision in decided:
            _record(draft, case, decision)
        app, waits = _start(draft, case, decided, placements, terms.nodes)
        run_cancel.conclude(draft, app.path, case.at)
        self._delete(draft, app.path, tuple(run for run in kept.delete if not run_cancel.is_open(draft, app.path, run)))
        self._conclude(draft, case, app)
        wake_in = min((kept.wake_in, next_due, *(decision.wake_in for decision in decided)))
        if moment.replaceable <= 0 and (lost := sum(_is_lost(case, view) for view in case.views)):
            waits, wake_in = f"{lost} lost instances are not replaced: {terms.held or 'others come first'}", min(wake_in, RETRY)
        waits = waits or next((decision.waits for decision in decided if decision.waits), "")
        return Told(waits, wake_in, terms.replaceable - moment.replaceable)

    def _view(self, draft: Draft, case: Case, run: Run, now: float) -> RunView:
        version = draft.version(run.app, run.version)
        spec = version.spec if version is not None else case.spec
        views = tuple(view for view in case.views if view.placed.run == run.id and not view.placed.ended)
        failed, at = self._failures.get(run.id, (run.failed, now))
        if failed != run.failed:
            at = now
        self._failures[run.id] = run.failed, at
        return RunView(run, spec, views, self._elapsed(run, run.created_at, case.at, now), now - at)

    def _elapsed(self, run: Run, since: str, at: str, now: float) -> float:
        """Return the seconds since a moment in the life of a run."""
        key = (run_key(run.app, run.id), since)
        if key not in self._began:
            self._began[key] = now - max(0.0, (datetime.fromisoformat(at) - datetime.fromisoformat(since)).total_seconds())
        return now - self._began[key]

    def _delete(self, draft: Draft, path: str, ids: tuple[str, ...]) -> None:
        keys = {run_key(path, identity) for identity in ids}
        for key in keys:
            draft.delete("run", key)
        if keys:
            self._began = {key: at for key, at in self._began.items() if key[0] not in keys}

    def forget(self, path: str) -> None:
        """Forget the times of a job that is gone."""
        self._began = {key: at for key, at in self._began.items() if not key[0].startswith(f"{path}@")}

    def _conclude(self, draft: Draft, case: Case, app: App) -> None:
        """End the task of the job itself, and forget the job when nothing is left of one that is being deleted."""
        left = draft.placed(app.path).instances
        task = draft.task(app.task) if app.task else None
        is_done = not (app.deleting and left) and not (app.stopped and any(not item.ended for item in left))
        if task is not None and task.state is TaskState.RUNNING and is_done:
            _end_task(draft, replace(task, state=TaskState.SUCCEEDED, message=_summary(app, task), ended_at=case.at))
            app = replace(app, task="", paused="")
        if app.deleting and not left:
            self.forget(app.path)
            erase(draft, app)
        else:
            draft.put_app(app)


def _is_lost(case: Case, view: View) -> bool:
    return not (view.placed.stop or view.placed.ended) and is_given_up(view, case.spec)


def _lonely(draft: Draft, case: Case) -> frozenset[int]:
    """Return the versions with instances that are in the way of one of which only one may exist."""
    numbers = {view.placed.version for view in case.views}
    if case.spec.placement.exclusive:
        return frozenset(numbers)
    found = ((number, draft.version(case.app.path, number)) for number in numbers)
    return frozenset(number for number, version in found if version is not None and version.spec.placement.exclusive)


def _stopped(app: App) -> str:
    return "the job was deleted" if app.deleting else "the job was stopped" if app.stopped else ""


def _summary(app: App, task: Task) -> str:
    if app.deleting:
        return f"{app.path} is gone"
    if app.stopped:
        return "no run is under way"
    return f"a run is started by: gestaltctl run {app.path}" if task.kind is Verb.LAUNCH else f"the next run is of version {app.version}"


def _settled(draft: Draft, case: Case, decided: list[RunDecision], kept: Kept) -> Placements:
    """Mark and drop instances as was decided; what is left of runs that are over goes, too."""
    under_way = {decision.run.id for decision in decided}
    rest = [view for view in case.views if not view.placed.ended and view.placed.run not in under_way]
    stop = {*kept.stop, *(view.placed.serial for view in rest), *(serial for decision in decided for serial in decision.stop)}
    kept_back = [view for view in rest if view.placed.keep and may_be_kept(view) and not case.app.deleting]
    done = {view.placed.serial for view in kept_back if view.heard and view.observed is not None and view.observed.ended}
    ended = done.union(serial for decision in decided for serial in decision.ended)
    keep = {view.placed.serial for view in kept_back}.union(serial for decision in decided for serial in decision.keep)
    forget = {*kept.forget, *(serial for decision in decided for serial in decision.forget), *_over(case, rest)}
    before = draft.placed(case.app.path)
    after = tuple(marked(item, stop, ended, keep) for item in before.instances if item.serial not in forget)
    return Placements(case.app.path, after) if after != before.instances else before


def _over(case: Case, rest: list[View]) -> list[int]:
    return [view.placed.serial for view in rest if view.placed.stop and (view.is_over or is_given_up(view, case.spec))]


def _record(draft: Draft, case: Case, decision: RunDecision) -> None:
    """Write what became of a run, and end its task with it."""
    run, path = decision.run, case.app.path
    before = next((item for item in runs_in(draft, path) if item.id == run.id), None)
    if run == before:
        return
    draft.put(run)
    if run.state is RunState.RUNNING:
        return
    draft.tell(f"run.{run.state}", run.id, f"run {run.id} of {path} {run.state}: {run.message}", path)
    if (task := draft.task(run.id)) is not None and task.state is TaskState.RUNNING:
        steps = (step_of(run, case.spec, 0),)
        _end_task(draft, replace(task, state=_OUTCOME[run.state], message=run.message, ended_at=case.at, steps=steps))
    version = draft.version(path, run.version)
    if run.state is RunState.SUCCEEDED and version is not None and not version.proven:
        draft.put_version(replace(version, proven=True))


def _end_task(draft: Draft, task: Task) -> None:
    draft.put_task(task)
    draft.tell(f"task.{task.state}", task.id, f"{task.kind} of {task.app} {task.state}: {task.message}", task.app)


def step_of(run: Run, spec: AppSpec, running: int) -> Step:
    """Return how far a run is, as the step of its task."""
    words = [(running, "at work"), (run.failed, "failed"), (run.lost, "lost with their nodes")]
    state = {RunState.RUNNING: "running", RunState.SUCCEEDED: "done"}.get(run.state, "failed")
    return Step("run", state, run.succeeded, job_of(spec).completions, ", ".join(f"{number} {word}" for number, word in words if number))


def _start(draft: Draft, case: Case, decided: list[RunDecision], settled: Placements, nodes: Callable[[], Nodes]) -> tuple[App, Why]:
    """Start instances of the oldest run that is to have some, and finds a place; the others' turn comes with the next look.

    Return why not all are placed.
    """
    app = _stable(case.app, decided)
    waits: Why = ""
    own = case
    added: tuple[Placed, ...] = ()
    found: Nodes = ()
    for decision in decided:
        version = draft.version(app.path, decision.run.version) if decision.start else None
        if version is None:
            continue
        own = replace(case, spec=version.spec)
        if own.is_taken:
            break
        found = found or nodes()
        added, why = _placed(app, decision, version, found, MAX_INSTANCES - len(settled.instances))
        waits = waits or why
        if added:
            break  # what has no place lets younger ones have theirs
    after = (*settled.instances, *added)
    if after != draft.placed(app.path).instances:
        draft.put_placements(Placements(app.path, after))
    put_grant(draft, own, settled.instances, added, found)
    return replace(app, next_serial=app.next_serial + len(added)), waits


def _placed(app: App, decision: RunDecision, version: Version, nodes: Nodes, room: int) -> tuple[tuple[Placed, ...], Why]:
    """Choose nodes for instances of a run; return these, and why there are not more."""
    placing = place(version.spec.model_copy(update={"instances": decision.start}), min(decision.start, room), nodes)
    chosen = enumerate(placing.choices, app.next_serial)
    full = f"{MAX_INSTANCES} instances are as many as one app may have" if room < decision.start else ""
    added = (Placed(serial, version.number, choice.node, choice.ports, run=decision.run.id) for serial, choice in chosen)
    return tuple(added), placing.shortage or full


def _stable(app: App, decided: list[RunDecision]) -> App:
    well = any(decision.run.state is RunState.SUCCEEDED and decision.run.version == app.version for decision in decided)
    return replace(app, stable=app.version) if well else app


def steps_of(state: State, task: Task) -> tuple[Step, ...]:
    """Return how far the run of a task is."""
    run = state.runs.get(run_key(task.app, task.id))
    if run is None:
        return task.steps
    return (step_of(run, state.version(run.app, run.version).spec, at_work(state, run)),)


def at_work(state: State, run: Run) -> int:
    """Return how many instances of a run are placed and have not ended."""
    return sum(item.run == run.id and not (item.ended or item.stop) for item in state.placed(run.app).instances)
