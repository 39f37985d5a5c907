"""Following tasks to their end, and telling it: a live view on a terminal, a line for each change elsewhere.

The task belongs to the coordinator. Whatever ends the following (Ctrl-C, a timeout, a lost connection), the task goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from gestalt.errors import GestaltError, Kind
from gestalt.units import show_duration

from .report import notice
from .shapes import word
from .style import is_terminal, one_line, paint, style_of
from .words import subject_of

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import model_pb2


class View(Protocol):
    """How progress is shown. `show` gets a task each time it changed, `close` is called once, whatever happened."""

    def show(self, task: model_pb2.Task) -> None: ...
    def close(self) -> None: ...


def view_for(output: str, tasks: int) -> View:
    """Return the fitting view: with a machine-readable output, progress goes to standard error."""
    if output not in {"table", "wide"}:
        return PlainView(sys.stderr, named=tasks > 1)
    if is_terminal():
        from .live import LiveView

        return LiveView()
    return PlainView(sys.stdout, named=tasks > 1)


class PlainView:
    """One line for each step or instance that changed."""

    def __init__(self, stream: TextIO, *, named: bool) -> None:
        self._stream = stream
        self._named = named
        self._seen: dict[tuple[str, str], str] = {}

    def show(self, task: model_pb2.Task) -> None:
        if (task.id, "") not in self._seen:
            self._say(task, "", f"{task.kind} of {subject_of(task)}, task {task.id}")
        for step in task.steps:
            if step.state != "pending":
                self._say(task, f"step {step.name}", step_line(step))
        for instance in task.instances:
            self._say(task, f"instance {instance.instance}", instance_line(instance))
        if task.state != "running":
            self._say(task, "end", outcome(task))

    def close(self) -> None:
        self._stream.flush()

    def _say(self, task: model_pb2.Task, subject: str, line: str) -> None:
        if self._seen.get((task.id, subject)) == line:
            return
        self._seen[task.id, subject] = line
        name = f"{subject_of(task)}  " if self._named else ""
        print(f"{show_duration(task.elapsed):>6}  {name}{line}", file=self._stream, flush=True)


async def follow(client: Client, tasks: Sequence[model_pb2.Task], view: View, timeout: float | None) -> list[model_pb2.Task]:
    """Follow tasks until all have ended; return them as they were last seen.

    Raises:
        GestaltError: TIMED_OUT, when `timeout` seconds were not enough; UNAVAILABLE, when the coordinator stayed away.
    """
    last = {task.id: task for task in tasks}
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(_follow_one(client, task, view, last))
    except TimeoutError:
        view.close()
        raise _timed_out([task for task in last.values() if task.state == "running"], timeout or 0) from None
    except asyncio.CancelledError:
        view.close()
        tell_detached([task for task in last.values() if task.state == "running"])
        raise
    except BaseExceptionGroup as group_error:
        view.close()
        raise group_error.exceptions[0] from None
    view.close()
    return list(last.values())


async def _follow_one(client: Client, task: model_pb2.Task, view: View, last: dict[str, model_pb2.Task]) -> None:
    view.show(task)
    if task.state != "running":
        return
    async for now in client.follow_task(task.id):
        last[task.id] = now
        view.show(now)


def tell_detached(tasks: Sequence[model_pb2.Task]) -> None:
    """Say that tasks go on without us, and how to see them again."""
    if is_terminal(sys.stderr):
        print(file=sys.stderr)  # ends the line on which the terminal showed ^C
    for task in tasks:
        notice(f"detached; the {task.kind} of {subject_of(task)} goes on: gestaltctl tasks {task.id} --watch")


def check_outcome(tasks: Sequence[model_pb2.Task]) -> None:
    """Return when all tasks succeeded.

    Raises:
        GestaltError: FAILED for a failed one, CONFLICT when another change took the place of one.
    """
    for task in tasks:
        if task.state == "failed":
            look = f"gestaltctl inspect {task.app}; gestaltctl logs {task.app} --tail 20; " if task.app else ""
            hint = f"{look}gestaltctl tasks {task.id}"
            why = task.message or "no reason was given"
            raise GestaltError(Kind.FAILED, f"the {task.kind} of {subject_of(task)} failed: {why}", hint=hint)
    for task in tasks:
        if task.state == "superseded":
            hint = f"see what happens now: gestaltctl tasks --app {task.app}" if task.app else "see what is so now: gestaltctl nodes"
            why = task.message or "to another change"
            raise GestaltError(Kind.CONFLICT, f"the {task.kind} of {subject_of(task)} gave way: {why}", hint=hint)


def step_line(step: model_pb2.Step) -> str:
    """Return a step in one line."""
    count = f" {step.done}/{step.total}" if step.total else ""
    return f"{step.name}{count} {step.state}" + (f": {one_line(step.message)}" if step.message else "")


def instance_line(instance: model_pb2.InstanceProgress) -> str:
    """Return the progress of an instance in one line."""
    node = f" on {instance.node}" if instance.node else ""
    health = word(instance, "health")
    said = f", {health}" if health != "unknown" else ""
    return f"{instance.instance}{node} {word(instance, 'phase')}{said}" + (f": {one_line(instance.message)}" if instance.message else "")


def outcome(task: model_pb2.Task) -> str:
    """Return how a task ended in one line."""
    return paint(task.state, style_of(task.state)) + (f": {one_line(task.message)}" if task.message else "")


def _timed_out(tasks: Sequence[model_pb2.Task], timeout: float) -> GestaltError:
    what = ", ".join(f"the {task.kind} of {subject_of(task)}" for task in tasks)
    hint = "it goes on: " + "; ".join(f"gestaltctl tasks {task.id} --watch" for task in tasks)
    return GestaltError(Kind.TIMED_OUT, f"{what} has not ended within {show_duration(timeout)}", hint=hint)
