"""One run of a job is cancelled: that is noted in the run, which then ends; the task does when nothing is at work any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gestalt.errors import GestaltError, Kind

from .changes import Asked, existing
from .records import Placed, Run, RunState, Step, Task, TaskState, Verb
from .state import Draft, State, runs_in

_NAMED = 3
"""So many nodes on which something is left are named at most."""


def cancel(draft: Draft, path: str, run: str, asked: Asked) -> Task | None:
    """Have a run end. One that is being cancelled already has its task returned. None: it was cancelled before.

    Raises:
        GestaltError: NOT_FOUND, when there is no such app or run; REFUSED, when the app is no job, or the run has ended otherwise.
    """
    app = existing(draft, path, asked)
    version = draft.version(path, app.version)
    if version is not None and version.spec.kind != "job":
        hint = f"undo its change: gestaltctl cancel {path}"
        raise GestaltError(Kind.REFUSED, f"{path} is no job, but a {version.spec.kind}: it has no runs", hint=hint)
    found = next((item for item in runs_in(draft, path) if item.id == run), None)
    if found is None:
        raise GestaltError(Kind.NOT_FOUND, f"{path} has no run {run!r}", hint=f"`gestaltctl runs {path}` lists those that are kept")
    if found.cancelled_by:
        task = draft.task(found.cancel_task)
        return task if task is not None and task.state is TaskState.RUNNING else None
    if found.state is not RunState.RUNNING:
        hint = f"see how it ended: gestaltctl runs {path} {run}"
        raise GestaltError(Kind.REFUSED, f"run {run} of {path} is over: it {_ended(found)}", hint=hint)
    draft.put(replace(found, cancelled_by=asked.by, cancel_task=asked.task))
    task = Task(asked.task, Verb.CANCEL, path, asked.by, asked.at)
    draft.put_task(task)
    draft.tell("run.cancelling", run, f"{asked.by} cancels run {run} of {path}", path)
    return task


def _ended(run: Run) -> str:
    return f"{'was ' if run.state in (RunState.STOPPED, RunState.CANCELLED) else ''}{run.state}: {run.message}"


def conclude(draft: Draft, path: str, at: str) -> None:
    """End the tasks of those who cancelled runs of which nothing is at work any more."""
    for run in runs_in(draft, path):
        task = draft.task(run.cancel_task) if run.cancel_task else None
        if task is None or task.state is not TaskState.RUNNING or run.state is RunState.RUNNING:
            continue
        if not _left(draft.placed(path).instances, run):
            is_late = run.state is not RunState.CANCELLED
            message = f"run {run.id} {_ended(run)}, before it was cancelled" if is_late else f"nothing of run {run.id} is at work any more"
            draft.put_task(replace(task, state=TaskState.SUCCEEDED, message=message, ended_at=at, steps=(_step(0, ""),)))
            draft.tell("task.succeeded", task.id, f"cancel of run {run.id} of {path} succeeded: {message}", path)


def is_open(draft: Draft, path: str, run: str) -> bool:
    """Tell whether anything of a run may still be at work, so that it is not to be forgotten."""
    return any(item.run == run and not item.ended for item in draft.placed(path).instances)


def steps_of(state: State, task: Task) -> tuple[Step, ...]:
    """Return how far a task is that cancels a run; none if it cancels something else."""
    run = next((item for item in state.runs_of(task.app) if item.cancel_task == task.id), None)
    if run is None:
        return ()
    left = _left(state.placed(task.app).instances, run)
    names = sorted({state.nodes[item.node].name if item.node in state.nodes else item.node for item in left})
    more = [f"{len(names) - _NAMED} more nodes"] if len(names) > _NAMED else []
    return (_step(len(left), f"run {run.id}: {len(left)} at work on {', '.join([*names[:_NAMED], *more])}" if left else ""),)


def _left(instances: Iterable[Placed], run: Run) -> list[Placed]:
    return [item for item in instances if item.run == run.id and not item.ended]


def _step(left: int, message: str) -> Step:
    return Step("stop", "running" if left else "done", 0, left, message)
