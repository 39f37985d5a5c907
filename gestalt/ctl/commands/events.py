"""events: what happened, and what happens."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import complete_apps
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.report import warn
from gestalt.ctl.session import converse
from gestalt.ctl.style import one_line, paint, style_of

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import model_pb2


@click.command(
    epilog=examples(
        "gestaltctl events",
        "gestaltctl events -f --app /shop/main/prod",
        "gestaltctl events --kind task.failed --kind instance",
        "gestaltctl events -f -o json",
    )
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--after", default=None, metavar="TOKEN", help="Only what came after this event. [0: all that is kept; with -f: from now on]")
@click.option("--app", default="", metavar="PATH", help="Only of this app, or of all below this path.", shell_complete=complete_apps)
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help='Only of this kind or group: "task.failed", "instance". Several are possible.'
)
@output_option
@connected
def events(follow: bool, after: str | None, app: str, kinds: tuple[str, ...], output: str) -> None:
    """Show what happened, and with -f what happens.

    With -o json each event is one line, with its token, after which a later call can go on. A lost connection is
    taken up again without losing events; when some are no longer kept, a warning says so.
    """
    token = after if after is not None else ("" if follow else "0")

    async def show(client: Client) -> None:
        from gestalt.ctl.resolve import find_app
        from gestalt.proto.v1 import api_pb2

        path = app if app.startswith("/") or not app else await find_app(client, app)
        request = api_pb2.WatchEventsRequest(after=token, follow=follow, app=path, kinds=kinds)
        async for batch in client.follow_events(request):
            if batch.gap:
                warn("there is a gap: older events are no longer kept")
            for event in batch.events:
                _print(event, output)
            sys.stdout.flush()

    converse(show, patience=60)


def _print(event: model_pb2.Event, output: str) -> None:
    from gestalt.ctl import words
    from gestalt.ctl.shapes import shape

    if output == "json":
        print(json.dumps(shape(event), ensure_ascii=False))
    elif output == "yaml":
        import yaml

        print(yaml.safe_dump(shape(event), sort_keys=False, allow_unicode=True, explicit_start=True), end="")
    elif output == "name":
        print(event.token)
    else:
        token = f"{event.token}  " if output == "wide" else ""
        kind = paint(f"{event.kind:<20}", style_of(event.kind.rpartition(".")[2]))
        print(f"{token}{words.when(event.at)}  {kind}  {event.subject}  {one_line(event.message)}".rstrip())
