"""wait: until an app is as wanted, or a task has ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import complete_apps
from gestalt.ctl.options import Duration, connected, examples
from gestalt.ctl.resolve import find_app
from gestalt.ctl.session import converse
from gestalt.errors import GestaltError, Kind
from gestalt.units import show_duration

from .tasks import get_task, watch_task

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import model_pb2

_POLL = 0.3


@click.command(
    epilog=examples(
        "gestaltctl wait /shop/main/prod/web",
        "gestaltctl wait web --for stopped --timeout 1m",
        "gestaltctl wait $(gestaltctl restart web --detach)",
    )
)
@click.argument("what", metavar="APP|TASK", shell_complete=complete_apps)
@click.option(
    "--for", "goal", type=click.Choice(("healthy", "stopped", "gone")), default="healthy", show_default=True, help="What to wait for."
)
@click.option("--timeout", type=Duration(), default="5m", show_default=True, metavar="TIME", help="Give up after this long; 0 = never.")
@connected
def wait(what: str, goal: str, timeout: float) -> None:
    """Wait until an app is as wanted, or a task has ended.

    healthy: every wanted instance is healthy and no change is under way. stopped: it was stopped, or scaled to 0, and no
    instance runs. gone: the app is deleted. For a task, --for does not count: the exit code is that of its outcome.
    """
    converse(lambda client: _wait(client, what, goal, timeout or None), patience=60)


async def _wait(client: Client, what: str, goal: str, timeout: float | None) -> None:
    if await _is_task(client, what):
        await watch_task(client, what, "table", timeout)
        return
    try:
        path = await find_app(client, what)
    except GestaltError as error:
        if goal == "gone" and error.kind is Kind.NOT_FOUND:
            return
        raise
    last = ""
    try:
        async with asyncio.timeout(timeout):
            while True:
                last = await _missing(client, path, goal)
                if not last:
                    return
                await asyncio.sleep(_POLL)
    except TimeoutError:
        hint = f"gestaltctl inspect {path}"
        problem = f"{path} is not {goal} after {show_duration(timeout or 0)}" + (f": {last}" if last else "")
        raise GestaltError(Kind.TIMED_OUT, problem, hint=hint) from None


async def _is_task(client: Client, text: str) -> bool:
    """Whether `text` names a task. Paths never do, and what is no task may be the short name of an app."""
    if "/" in text:
        return False
    try:
        await get_task(client, text)
    except GestaltError as error:
        if error.kind in {Kind.NOT_FOUND, Kind.INVALID}:
            return False
        raise
    return True


async def _missing(client: Client, path: str, goal: str) -> str:
    """Return what is still missing for the goal, empty when it is reached.

    Raises:
        GestaltError: NOT_FOUND, when the app is gone and that was not the goal.
    """
    from gestalt.proto.v1 import api_pb2

    try:
        reply = await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=path))
    except GestaltError as error:
        if goal == "gone" and error.kind is Kind.NOT_FOUND:
            return ""
        raise
    if goal == "gone":
        return f"it is {reply.app.state or 'still there'}"
    return missing_healthy(reply.app) if goal == "healthy" else missing_stopped(reply.app, len(reply.instances))


def missing_healthy(app: model_pb2.App) -> str:
    """Return why an app does not count as healthy, empty when it does."""
    if app.stopped:
        return "it is stopped"
    if app.state != "running" or app.healthy < app.count or app.task:
        return f"it is {app.state}, {app.healthy} of {app.count} healthy" + (f" ({app.message})" if app.message else "")
    return ""


def missing_stopped(app: model_pb2.App, instances: int) -> str:
    """Return why an app does not count as stopped, empty when it does."""
    if (app.stopped or not app.count) and not app.running and not app.task:
        return ""
    return f"it is {app.state}, {instances} instances are left"
