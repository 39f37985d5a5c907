"""scale, stop, start, restart, rollback, delete: changes of an app that exists."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out
from gestalt.ctl.completing import app_argument
from gestalt.ctl.options import Following, change_options, examples
from gestalt.ctl.resolve import find_app
from gestalt.ctl.session import converse
from gestalt.ctl.style import is_terminal
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from gestalt.client import Api, Client
    from gestalt.proto.v1 import api_pb2

    Pick = Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[api_pb2.AppRequest, api_pb2.ChangeReply]]


@click.command(epilog=examples("gestaltctl scale /shop/main/prod/web 5", "gestaltctl scale web 0 --detach"))
@app_argument
@click.argument("count", type=click.IntRange(0, 100_000))
@change_options
def scale(app: str, count: int, **how: Any) -> None:
    """Run another number of instances of an app.

    This makes no new version. APP is a path, or the end of one.
    """

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.ScaleRequest(app=await find_app(client, app), count=count)
        await carry_out(client, lambda api: api.apps.Scale, request, Following(**how))

    converse(work, patience=60)


@click.command(
    epilog=examples(
        "gestaltctl migrate /shop/main/prod/web --from web-3",
        "gestaltctl migrate web --to web-5",
        "gestaltctl migrate web --from web-3 --to web-5",
    )
)
@app_argument
@click.option("--from", "from_node", default="", metavar="NODE", help="Those that are on this node. Left out: all.")
@click.option("--to", "to_node", default="", metavar="NODE", help="To this node. Left out: wherever they fit best.")
@change_options
def migrate(app: str, from_node: str, to_node: str, **how: Any) -> None:
    """Move instances of an app to other nodes.

    Each stops when its replacement is healthy. What may exist only once, or has a fixed host port, stops first, and only if it fits
    where it is to go. Later replacements may go anywhere again: constraints say where an app has to be for good.
    """

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.MigrateRequest(app=await find_app(client, app), from_node=from_node, to_node=to_node)
        await carry_out(client, lambda api: api.apps.Migrate, request, Following(**how))

    converse(work, patience=60)


@click.command(epilog=examples("gestaltctl stop /shop/main/prod/web"))
@app_argument
@change_options
def stop(app: str, **how: Any) -> None:
    """Stop all instances of an app and keep its description.

    `gestaltctl start` brings it back as it was.
    """
    _simple(lambda api: api.apps.Stop, app, Following(**how))


@click.command(epilog=examples("gestaltctl start /shop/main/prod/web"))
@app_argument
@change_options
def start(app: str, **how: Any) -> None:
    """Start an app that was stopped."""
    _simple(lambda api: api.apps.Start, app, Following(**how))


@click.command(epilog=examples("gestaltctl restart /shop/main/prod/web", "gestaltctl restart web --timeout 5m"))
@app_argument
@change_options
def restart(app: str, **how: Any) -> None:
    """Replace the instances of an app one by one.

    Each is stopped only when its replacement is healthy.
    """
    _simple(lambda api: api.apps.Restart, app, Following(**how))


@click.command(epilog=examples("gestaltctl rollback web", "gestaltctl history web", "gestaltctl rollback web --to-version 3"))
@app_argument
@click.option("--to-version", type=click.IntRange(min=1), default=None, metavar="N", help="Version to go back to. [the stable one before]")
@change_options
def rollback(app: str, to_version: int | None, **how: Any) -> None:
    """Go back to an earlier version of an app.

    The number of instances, and whether it is stopped, stay as they are.
    """

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.RollbackRequest(app=await find_app(client, app), to_version=to_version or 0)
        await carry_out(client, lambda api: api.apps.Rollback, request, Following(**how))

    converse(work, patience=60)


@click.command(epilog=examples("gestaltctl delete /shop/main/test/web", "gestaltctl delete web --yes"))
@app_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Even if other apps depend on it.")
@change_options
def delete(app: str, yes: bool, force: bool, **how: Any) -> None:
    """Stop an app and forget it, with its versions.

    Asks first; where nobody can be asked, --yes is needed. An app on which others depend is deleted only with --force.
    """

    path = app if app.startswith("/") else converse(lambda client: find_app(client, app))
    if not yes:
        _confirm(path)  # outside the event loop, in which Ctrl-C could not reach it

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.DeleteRequest(app=await find_app(client, path), force=force)
        await carry_out(client, lambda api: api.apps.Delete, request, Following(**how))

    converse(work, patience=60)


def _simple(pick: Pick, app: str, how: Following) -> None:
    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        await carry_out(client, pick, api_pb2.AppRequest(app=await find_app(client, app)), how)

    converse(work, patience=60)


def _confirm(path: str) -> None:
    """Return when the person agrees.

    Raises:
        GestaltError: INVALID, when nobody can be asked; REFUSED, when the answer is no.
    """
    if not is_terminal(sys.stdin):
        raise GestaltError(Kind.INVALID, f"nobody can be asked whether to delete {path}", hint="add --yes if you mean it")
    if not click.confirm(f"Delete {path}, with its versions and all its instances?", default=False, err=True):
        raise GestaltError(Kind.REFUSED, f"{path} was not deleted", hint="answer y, or add --yes, to delete it")
