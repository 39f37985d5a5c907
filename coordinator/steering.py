"""What an operator does about a change that is under way: promote its canary, pause, resume or cancel it. Pure, as `changes` is."""

from __future__ import annotations

from dataclasses import replace

from gestalt.errors import GestaltError, Kind

from .canary import promoted
from .changes import Asked, begin, existing
from .claims import refuse_conflicts
from .records import App, Task, TaskState, Verb
from .state import Draft


def promote(draft: Draft, path: str, unready: str, asked: Asked) -> Task:
    """Make the canary the wanted version. The task of its update goes on.

    Args:
        draft: to change.
        path: of the app.
        unready: why the canary cannot be promoted, as far as that is known only from what is observed; empty = it can.
        asked: by whom.

    Raises:
        GestaltError: REFUSED, when there is none, it is not well, or it is paused.
    """
    app = existing(draft, path, asked)
    if not app.canary:
        raise GestaltError(Kind.REFUSED, f"{path} has no canary", hint="an update with `update.strategy: canary` makes one")
    if app.paused:
        raise GestaltError(Kind.REFUSED, f"the update of {path} is paused {app.paused}", hint=f"resume it first: gestaltctl resume {path}")
    if unready:
        hint = f"see why: gestaltctl inspect {path}; without it: gestaltctl cancel {path}"
        raise GestaltError(Kind.REFUSED, f"version {app.canary} of {path} cannot be promoted yet: {unready}", hint=hint)
    version = draft.version(path, app.canary)
    assert version is not None, "the version of a canary always exists"
    refuse_conflicts(draft, path, version.spec)
    return promoted(draft, app, asked.by, asked.at, asked.task)


def pause(draft: Draft, path: str, asked: Asked) -> Task | None:
    """Hold the change that is under way where it is. None: it is paused already."""
    app = existing(draft, path, asked)
    task = _under_way(draft, app)
    if app.paused:
        return None
    if task.kind is Verb.FAILOVER:
        hint = "`gestaltctl cluster pause` pauses the replacement of what is lost"
        raise GestaltError(Kind.REFUSED, f"nothing of {path} is being changed: what was lost is replaced", hint=hint)
    staying = [item for item in draft.placed(path).instances if not item.stop]
    canaries = sum(app.tries(item) for item in staying)
    draft.tell("app.paused", path, f"{asked.by} paused the {task.kind} of {path}", path)
    draft.put_app(replace(app, paused=f"by {asked.by}", at_pause=len(staying) - canaries, canaries_at_pause=canaries))
    return task


def resume(draft: Draft, path: str, asked: Asked) -> Task | None:
    """Let a paused change go on. None: it is not paused."""
    app = existing(draft, path, asked)
    if not app.paused:
        return None
    draft.tell("app.resumed", path, f"{asked.by} resumed the change of {path}", path)
    draft.put_app(replace(app, paused="", at_pause=0, canaries_at_pause=0))
    return next(iter(_running(draft, app)), None)


def cancel(draft: Draft, path: str, asked: Asked) -> Task:
    """Go back to what was before the change that is under way; with a canary, to the wanted version alone.

    Raises:
        GestaltError: REFUSED, when nothing is under way, it goes back already, or nothing was before.
    """
    app = existing(draft, path, asked)
    if app.canary:
        draft.tell("app.cancelled", path, f"{asked.by} cancelled version {app.canary} of {path}, which was tried", path)
        beside = draft.task(app.task) if app.task else None
        if beside is not None and beside.state is TaskState.RUNNING and beside.kind is Verb.RESTART:
            app = _before(draft, app, beside)  # its task ends by this
        return begin(draft, app, Verb.CANCEL, asked)
    task = _under_way(draft, app)
    goal = _before(draft, app, task)
    draft.tell("app.cancelled", path, f"{asked.by} cancelled the {task.kind} of {path}", path)
    return begin(draft, goal, Verb.CANCEL, asked)


def _under_way(draft: Draft, app: App) -> Task:
    """Return the task of the change of an app; that of a canary if nothing else is being changed."""
    running = _running(draft, app)
    if not running:
        version = draft.version(app.path, app.version)
        is_job = version is not None and version.spec.kind == "job"
        hint = (
            f"end one of its runs: gestaltctl cancel {app.path} --run RUN"
            if is_job
            else f"see what was done: gestaltctl tasks --app {app.path}"
        )
        raise GestaltError(Kind.REFUSED, f"no change of {app.path} is under way", hint=hint)
    return next((task for task in running if task.kind is not Verb.FAILOVER), running[0])


def _running(draft: Draft, app: App) -> list[Task]:
    """Return the tasks of an app that are under way: its own, and that of its canary."""
    tasks = (draft.task(task) for task in (app.task, app.canary_task) if task)
    return [task for task in tasks if task is not None and task.state is TaskState.RUNNING]


def _before(draft: Draft, app: App, task: Task) -> App:
    """Return the goal that an app had before a change."""
    match task.kind:
        case Verb.SCALE if task.former >= 0:
            return replace(app, count=task.former)
        case Verb.STOP | Verb.START:
            return replace(app, stopped=task.kind is Verb.START)
        case Verb.RESTART:
            return replace(app, renew_below=0)
        case Verb.MIGRATE:
            return app.settled()
        case Verb.FAILOVER:
            hint = "`gestaltctl cluster pause` pauses the replacement of what is lost"
            raise GestaltError(Kind.REFUSED, f"nothing of {app.path} is being changed: what was lost is replaced", hint=hint)
        case Verb.CANCEL:
            raise GestaltError(Kind.REFUSED, f"{app.path} goes back already", hint=f"see how far it is: gestaltctl tasks {task.id}")
    if task.rolling_back:
        hint = f"see how far it is: gestaltctl tasks {task.id}"
        raise GestaltError(Kind.REFUSED, f"{app.path} is rolled back already: {task.rolling_back}", hint=hint)
    if app.awaiting not in (0, app.version):
        return replace(app, awaiting=0, after=())  # nothing of it began
    goal = app.stable if app.stable not in (0, app.version) else task.stable
    version = draft.version(app.path, goal) if goal not in (0, app.version) else None
    if version is None:
        hint = f"without it: gestaltctl stop {app.path}, or gestaltctl delete {app.path}"
        raise GestaltError(Kind.REFUSED, f"there is nothing before the {task.kind} of {app.path} to go back to", hint=hint)
    count = 1 if version.spec.placement.exclusive else app.count
    return replace(app, version=goal, awaiting=0, after=(), stable=goal, count=min(app.count, count))
