"""tasks: tracked operations, a list of them or one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import complete_apps
from gestalt.ctl.options import Duration, connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.progress import check_outcome, follow, instance_line, outcome, step_line, view_for
from gestalt.ctl.session import converse
from gestalt.ctl.style import clean, paint
from gestalt.ctl.words import subject_of
from gestalt.units import show_duration

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

_COLUMNS = (
    Column("TASK"), Column("KIND"), Column("APP"), Column("STATE", state=True), Column("STARTED"), Column("TOOK", right=True),
    Column("BY", wide=True), Column("MESSAGE", fold=True),
)  # fmt: skip


@click.command(
    epilog=examples("gestaltctl tasks", "gestaltctl tasks --running", "gestaltctl tasks 3f2a", "gestaltctl tasks 3f2a --watch --timeout 5m")
)
@click.argument("task_id", required=False, default="", metavar="[ID]")
@click.option("-w", "--watch", is_flag=True, help="Follow the task to its end; the exit code is that of its outcome.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Watch for at most this long.")
@click.option("--app", default="", metavar="PATH", help="Only those of this app.", shell_complete=complete_apps)
@click.option("--running", is_flag=True, help="Only those under way.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many, the newest first.")
@output_option
@connected
def tasks(task_id: str, *, watch: bool, timeout: float | None, app: str, running: bool, limit: int, output: str) -> None:
    """List tasks, or show or watch one.

    ID is a task's id, or the beginning of one.
    """
    if watch and not task_id:
        raise click.UsageError("--watch needs the id of a task")
    if watch:
        converse(lambda client: watch_task(client, task_id, output, timeout), patience=60)
    elif task_id:
        _print_one(converse(lambda client: get_task(client, task_id)), output)
    else:
        _print_list(converse(lambda client: _list(client, app, running, limit)), output)


async def get_task(client: Client, task_id: str) -> model_pb2.Task:
    """Return a task by its id or the beginning of one."""
    from gestalt.proto.v1 import api_pb2

    return await client.call(lambda api: api.tasks.Get, api_pb2.GetTaskRequest(id=task_id))


async def watch_task(client: Client, task_id: str, output: str, timeout: float | None) -> None:
    """Follow a task to its end and tell its outcome.

    Raises:
        GestaltError: it failed, gave way, or did not end in time.
    """
    ended = await follow(client, [await get_task(client, task_id)], view_for(output, 1), timeout)
    if output not in {"table", "wide"}:
        _print_one(ended[0], output)
    check_outcome(ended)


async def _list(client: Client, app: str, running: bool, limit: int) -> api_pb2.ListTasksReply:
    from gestalt.ctl.resolve import find_app
    from gestalt.proto.v1 import api_pb2

    path = await find_app(client, app) if app else ""
    return await client.call(lambda api: api.tasks.List, api_pb2.ListTasksRequest(app=path, running_only=running, limit=limit))


def _print_list(reply: api_pb2.ListTasksReply, output: str) -> None:
    from gestalt.ctl.shapes import shape

    emit(
        output,
        lambda: shape(reply),
        lambda: [task.id for task in reply.tasks],
        lambda wide: print_table(_COLUMNS, map(_row, reply.tasks), wide=wide, empty="no tasks"),
    )


def _row(task: model_pb2.Task) -> tuple[str, ...]:
    from gestalt.ctl import words

    started, took = words.when(task.created_at), show_duration(task.elapsed)
    return (task.id, task.kind, subject_of(task), task.state, started, took, task.requested_by, task.message or _current_step(task))


def _current_step(task: model_pb2.Task) -> str:
    return next((step_line(step) for step in task.steps if step.state == "running"), "")


def _print_one(task: model_pb2.Task, output: str) -> None:
    from gestalt.ctl.shapes import shape

    emit(output, lambda: shape(task), lambda: [task.id], lambda _: _print_task(task))


def _print_task(task: model_pb2.Task) -> None:
    from gestalt.ctl import words

    print(paint(f"{task.kind} of {subject_of(task)}", "bold"))
    print(f"  task     {task.id}")
    print(f"  state    {outcome(task)}")
    print(f"  started  {words.when(task.created_at)}" + (f" by {clean(task.requested_by)}" if task.requested_by else ""))
    print(f"  took     {show_duration(task.elapsed)}")
    for step in task.steps:
        print(f"  step     {step_line(step)}")
    for instance in task.instances:
        print(f"  instance {instance_line(instance)}")
    for text in task.warnings:
        print(f"  {paint('warning:', 'yellow')} {clean(text)}")
