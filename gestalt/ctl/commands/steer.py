"""promote, pause, resume, cancel: what to do about a change that is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out, change_shape
from gestalt.ctl.completing import app_argument
from gestalt.ctl.options import Following, change_options, connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.resolve import find_app
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from gestalt.client import Api, Client
    from gestalt.proto.v1 import api_pb2

    Pick = Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[api_pb2.AppRequest, api_pb2.ChangeReply]]


@click.command(epilog=examples("gestaltctl promote /shop/main/prod/web", "gestaltctl promote web --timeout 10m"))
@app_argument
@change_options
def promote(app: str, **how: Any) -> None:
    """Let a canary go on: its version becomes the wanted one.

    The canaries stay, the other instances are replaced as by a rolling update. Refused until all canaries are healthy.
    """
    _steer(lambda api: api.changes.Promote, app, Following(**how))


@click.command(epilog=examples("gestaltctl pause web", "gestaltctl resume web"))
@app_argument
@connected
@output_option
def pause(app: str, output: str) -> None:
    """Hold the change of an app where it is.

    Nothing more is started or stopped for it, and its deadlines do not run, until `gestaltctl resume`. What is lost is replaced all the
    same; `gestaltctl cluster pause` is for that.
    """

    async def ask(client: Client) -> api_pb2.ChangeReply:
        from gestalt.proto.v1 import api_pb2

        return await client.call(lambda api: api.changes.Pause, api_pb2.AppRequest(app=await find_app(client, app)))

    reply = converse(ask)

    def people(_: bool) -> None:
        for task in reply.tasks:
            print(f"the {task.kind} of {task.app} is paused; it goes on with: gestaltctl resume {task.app}")
        for path in reply.unchanged:
            print(f"{path} is paused already")

    emit(output, lambda: change_shape(reply, reply.tasks), lambda: [task.id for task in reply.tasks], people)


@click.command(epilog=examples("gestaltctl resume web", "gestaltctl resume web --detach"))
@app_argument
@change_options
def resume(app: str, **how: Any) -> None:
    """Let a paused change of an app go on."""
    _steer(lambda api: api.changes.Resume, app, Following(**how))


@click.command(epilog=examples("gestaltctl cancel web", "gestaltctl cancel report --run 3f2a"))
@app_argument
@click.option("--run", "run_id", default="", metavar="RUN", help="End this run of a job instead: its id, or the beginning of it.")
@change_options
def cancel(app: str, run_id: str, **how: Any) -> None:
    """Undo the change of an app that is under way, or end one run of a job.

    An update goes back to the version before, a scale to the number before; a canary is dropped. `gestaltctl rollback` undoes one that is
    done. A run starts nothing more, what it has at work is stopped, and other runs of the job go on.
    """
    if run_id:
        _cancel_run(app, run_id, Following(**how))
        return
    _steer(lambda api: api.changes.Cancel, app, Following(**how))


def _cancel_run(app: str, run_id: str, how: Following) -> None:
    async def work(client: Client) -> None:
        from gestalt.ctl.commands.jobs import find_run
        from gestalt.proto.v1 import api_pb2

        found = await find_run(client, app, run_id)
        await carry_out(client, lambda api: api.jobs.CancelRun, api_pb2.CancelRunRequest(app=found.app, run=found.id), how)

    converse(work, patience=60)


def _steer(pick: Pick, app: str, how: Following) -> None:
    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        await carry_out(client, pick, api_pb2.AppRequest(app=await find_app(client, app)), how)

    converse(work, patience=60)
