"""A canary: a version that is tried beside the wanted one, in a number of its own. Pure.

It is decided about apart, by `reconcile` over its own instances, so that the failover, scaling and draining of the wanted version go on
while it waits. To promote it is to make it the wanted version; to drop it is to have its instances stop, which nothing else depends on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gestalt.spec.schema import AppSpec
from gestalt.units import show_duration

from .advance import LEADER, Case, end, put_instances, steps
from .claims import conflicts
from .reconcile import Decision, Outcome, View, is_given_up, is_steady, reconcile, share
from .records import App, Placements, Step, Task, TaskState, Verb
from .scheduler.fleet import Nodes
from .scheduler.place import place
from .scheduler.shortage import Why
from .state import Draft

NONE = math.inf
"""Seconds until time changes something about a canary that there is not."""


def number(app: App, spec: AppSpec) -> int:
    """Return how many canaries of a version there are to be: the count or percentage of its description, at least one of those wanted."""
    return min(app.wanted, max(1, share(spec.update.canary, app.wanted, round_up=True)))


def as_goal(app: App, spec: AppSpec) -> App:
    """Return an app whose goal is its canary alone."""
    return replace(
        app,
        version=app.canary,
        count=number(app, spec),
        task=app.canary_task,
        at_pause=app.canaries_at_pause,
        renew_below=0,
        canary=0,
        canary_task="",
        awaiting=0,
        held=(),
        claims=(),
    )


def apart(app: App, views: Iterable[View]) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """Return the instances of the wanted version and of what it replaces, and the canaries."""
    views = tuple(views)
    return tuple(view for view in views if not app.tries(view.placed)), tuple(view for view in views if app.tries(view.placed))


@dataclass(frozen=True, slots=True)
class Attended:
    """What became of a look at a canary.

    `unplaced`: why there are too few; `waits`: why it is not promoted although it was well for long enough. `replaced`: how many lost ones
    were; `held_back`: how many more would be, were they allowed to. `missing`: how many were not started that are to be. `wake_in`: seconds
    until time alone may change something.
    """

    unplaced: Why = ""
    waits: str = ""
    replaced: int = 0
    held_back: int = 0
    wake_in: float = NONE
    missing: int = 0


def attend(draft: Draft, case: Case, decision: Decision, nodes: Nodes, waits: str) -> Attended:
    """Put what was decided about a canary into the draft, after what was decided about the wanted version.

    Args:
        draft: with the wanted version's part in it already.
        case: the canary's, as `as_goal` makes it.
        decision: of `reconcile` for it.
        nodes: to place on.
        waits: why the wanted version has too few instances: they come first; empty = it has enough.
    """
    app = draft.app(case.app.path)
    if app is None or app.canary != case.app.version:
        return Attended()
    task = draft.task(app.canary_task) if app.canary_task else None
    if decision.outcome is Outcome.FAILED and task is not None and task.state is TaskState.RUNNING:
        _give_up(draft, app, case, task, waits or _reason(case, decision, nodes))
        return Attended()
    wanted = decision.start
    is_filled_up = app.next_serial != draft.base.apps.get(app.path, app).next_serial  # in this draft: the commit has us look again
    if decision.start and (waits or is_filled_up):
        waits = f"the canary waits, the wanted version comes first: {waits}" if waits else ""
        decision = replace(decision, start=0, replacing=0)
    else:
        waits = ""
    serials = replace(case, app=replace(case.app, next_serial=app.next_serial))
    _, added, unplaced = put_instances(draft, serials, decision, nodes)
    if added:
        draft.put_app(replace(app, next_serial=app.next_serial + len(added)))
    why, wake_in = _promote_in_time(draft, case, decision)
    wake_in, missing = min(decision.wake_in, wake_in), wanted - len(added)
    return Attended(waits or unplaced, why, min(decision.replacing, len(added)), decision.held_back, wake_in, missing)


def _reason(case: Case, decision: Decision, nodes: Nodes) -> str:
    """Return why a canary failed, with what keeps it from being placed."""
    if not decision.start:
        return decision.reason
    placing = place(case.spec.model_copy(update={"instances": case.app.wanted}), decision.start, nodes)
    return f"{decision.reason}: {placing.reason}" if placing.missing else decision.reason


def moves(case: Case) -> bool:
    """Tell whether a migration has canaries left to move. `case`: the canary's."""
    return any(view.placed.serial in case.app.moving and not view.placed.stop for view in case.views)


def stay(draft: Draft, case: Case, trial: Case, decision: Decision, nodes: Nodes) -> None:
    """End a migration that cannot move a canary: where an instance is says nothing against a version, so the canary goes on where it is.

    Args:
        draft: with the wanted version's part in it already.
        case: of the wanted version.
        trial: the canary's.
        decision: about it, which is that it failed.
        nodes: to place on, if anything was to be started.
    """
    app = draft.app(case.app.path)
    if app is None:
        return
    task = draft.task(app.task) if app.task else None
    if task is not None and task.kind is Verb.MIGRATE and task.state is TaskState.RUNNING:
        why = _reason(trial, decision, nodes)
        message = f"the canary of version {app.canary} could not be moved: {why}; what has not moved stays where it is"
        end(draft, replace(case, app=app), task, TaskState.FAILED, message)
        app = replace(app, task="")
    draft.put_app(app.settled())
    views = tuple(replace(view, moving=view.moving and view.placed.serial not in trial.app.moving) for view in trial.views)
    rest = reconcile(trial.app.settled(), trial.spec, views, 0.0)  # what took their places goes, before it is held against the version
    put_instances(draft, trial, Decision(0, rest.stop, (), rest.outcome), ())


def _give_up(draft: Draft, app: App, case: Case, task: Task, reason: str) -> None:
    """End a canary that failed. Without `auto_rollback` it stays, to be looked at."""
    if not case.spec.update.auto_rollback:
        hint = f"it stays until `gestaltctl cancel {app.path}`, or another update"
        end(draft, case, task, TaskState.FAILED, f"the canary of version {app.canary} is not well: {reason}; {hint}")
        draft.put_app(replace(app, canary_task=""))
        return
    message = f"the canary of version {app.canary} is given up: {reason}; version {app.version} was not touched"
    end(draft, case, task, TaskState.FAILED, message)
    draft.put_app(drop(draft, app))


def drop(draft: Draft, app: App) -> App:
    """Have the canaries stop, but for what is the wanted version now, and return the app without them."""
    instances = draft.placed(app.path).instances
    if canaries := [replace(item, stop=True) for item in instances if app.tries(item)]:
        draft.put_placements(Placements(app.path, instances.edited(put=canaries)))
    return replace(app, canary=0, canary_task="", canaries_at_pause=0)


def give_way(draft: Draft, path: str, task: str, message: str, at: str) -> None:
    """End a task of an app that is under way, if it is one, in favour of a newer request."""
    running = draft.task(task) if task else None
    if running is not None and running.state is TaskState.RUNNING:
        draft.put_task(replace(running, state=TaskState.SUPERSEDED, message=message, ended_at=at))
        draft.tell("task.superseded", running.id, f"{running.kind} of {path}: {message}", path)


def promoted(draft: Draft, app: App, by: str, at: str, new_task: str) -> Task:
    """Make the canary the wanted version: its instances stay, the others are replaced. The task of the update goes on."""
    task = draft.task(app.canary_task) if app.canary_task else None
    if task is None:
        task = Task(new_task, Verb.UPDATE, app.path, by, at, stable=app.stable, former=app.count)
        draft.put_task(task)
    give_way(draft, app.path, app.task, f"superseded by the promotion of version {app.canary} (task {task.id})", at)
    draft.tell("app.promoted", app.path, f"{by} promoted version {app.canary} of {app.path}", app.path)
    draft.put_app(
        replace(
            app.settled(),
            version=app.canary,
            canary=0,
            canary_task="",
            canaries_at_pause=0,
            renew_below=0,
            task=task.id,
            paused="",
            awaiting=0,
            after=(),
        )
    )
    return task


AGAIN = 5.0
"""Seconds until a promotion is tried again that another app stands in the way of."""


def _promote_in_time(draft: Draft, case: Case, decision: Decision) -> tuple[str, float]:
    """Promote a canary that was healthy for long enough, if that is to happen by itself.

    Return why it is not although it was, and seconds until it may be.
    """
    app, update = draft.app(case.app.path), case.spec.update
    is_due = app is not None and app.canary_task and not app.paused  # one that was given up stays to be looked at
    if app is None or not is_due or update.promote != "auto" or decision.outcome is not Outcome.DONE or not decision.is_proven:
        return "", NONE
    left = update.promote_after - well_for(case)
    if left > 0:
        return "", left
    running = draft.task(app.task) if app.task else None
    if running is not None and running.state is TaskState.RUNNING:
        return f"the canary is promoted after the {running.kind} that is under way", NONE
    if taken := conflicts(draft, app.path, case.spec):
        return f"the canary cannot be promoted: {taken[0].problem}", AGAIN
    promoted(draft, app, LEADER, case.at, case.task)
    return "", NONE


def well_for(case: Case) -> float:
    """Return for how many seconds all canaries have been healthy, as far as this leader knows."""
    current = _current(case)
    return min((view.ready_for for view in current), default=0.0)


def _current(case: Case) -> list[View]:
    return [view for view in case.views if not view.placed.stop and not is_given_up(view, case.spec)]


def _healthy(case: Case) -> int:
    """Return how many canaries count as healthy: while one moves, it and its replacement are one."""
    return min(sum(is_steady(view, case.spec) for view in _current(case)), case.app.wanted)


def unready(case: Case) -> str:
    """Return why a canary cannot be promoted yet; empty when it can. That its node is to be left says nothing against a version."""
    healthy, wanted = _healthy(case), case.app.wanted
    if not wanted:
        return "no instance is wanted, so none is tried"
    return "" if healthy >= wanted else f"{healthy} of {_count(wanted)} {'are' if wanted > 1 else 'is'} healthy"


def sentence(app: App, case: Case, why: str = "") -> str:
    """Say how a canary stands, and what it waits for.

    Args:
        app: as it is.
        case: of the canary.
        why: why there are too few, or it is not promoted, as far as that is known.
    """
    if not case.app.wanted:
        return "canary: none, for no instance is wanted"
    current, healthy = _current(case), _healthy(case)
    head = f"canary: {healthy} of {case.app.wanted} healthy"
    if healthy < case.app.wanted:
        trouble = why or next((view.observed.reason for view in current if view.observed and not view.ready and view.observed.reason), "")
        given_up = "" if app.canary_task else f"; given up, `gestaltctl cancel {app.path}` removes it"
        return head + (f": {trouble}" if trouble else "") + given_up
    since = f"{head} for {show_duration(math.floor(well_for(case)))}"
    if app.paused:
        return f"{since}, paused {app.paused}: `gestaltctl resume {app.path}`"
    is_leaving, update = any(view.moving for view in current), case.spec.update
    if is_leaving:
        since += ", waits for another node" + (f" ({why})" if why else "")
    elif why:
        return f"{since}; {why}"
    if is_leaving and not (update.promote == "auto" and app.canary_task):
        return f"{since} and for `gestaltctl promote {app.path}`"
    if is_leaving:
        return f"{since}, then is promoted after {show_duration(update.promote_after)}, or at once by `gestaltctl promote {app.path}`"
    if update.promote == "auto" and app.canary_task:
        return f"{since}, is promoted after {show_duration(update.promote_after)}, or by `gestaltctl promote {app.path}`"
    return f"{since}, waits for `gestaltctl promote {app.path}`"


def _count(wanted: int) -> str:
    return f"{wanted} canaries" if wanted > 1 else "1 canary"


def canary_steps(app: App, case: Case, task: Task, why: str) -> tuple[Step, ...]:
    """Return the steps of the task of a canary, with how far each is."""
    begun = [replace(step, name=f"canary {step.name}") for step in steps(case, task, why) if not step.name.startswith("stop")]
    if task.state is not TaskState.RUNNING:
        return tuple(begun)
    ready = not unready(case)
    return (*begun, Step("promote", "running" if ready else "pending", 0, 0, sentence(app, case, why)))
