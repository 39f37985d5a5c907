"""top: what instances use right now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from gestalt.ctl.commands.listing import below
from gestalt.ctl.completing import complete_apps
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.session import converse
from gestalt.ctl.style import is_terminal
from gestalt.errors import GestaltError, Kind
from gestalt.units import show_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

AGAIN = 2.0
"""Seconds between two looks of --watch; agents measure every 5 s."""

_CLEAR = "\x1b[H\x1b[2J"
_COLUMNS = (
    Column("INSTANCE"),
    Column("NODE"),
    Column("CORES", right=True),
    Column("OF ASKED", right=True),
    Column("MEMORY", right=True),
    Column("OF LIMIT", right=True),
    Column("REQUESTS/S", right=True),
    Column("UNDER WAY", right=True),
    Column("APP", wide=True),
)
_ORDERS: dict[str, Callable[[model_pb2.Usage], float]] = {
    "cpu": lambda usage: usage.cpu,
    "memory": lambda usage: usage.memory,
    "requests": lambda usage: usage.requests,
    "queue": lambda usage: usage.queue,
}


@click.command(epilog=examples("gestaltctl top", "gestaltctl top web --sort memory", "gestaltctl top /shop/main --watch"))
@click.argument("app", required=False, default="", metavar="[APP|PREFIX]", shell_complete=complete_apps)
@click.option(
    "--sort", "order", type=click.Choice(tuple(_ORDERS)), default="cpu", show_default=True, help="What comes first: the most of this."
)
@click.option("-w", "--watch", is_flag=True, help="Look again every 2 s, until interrupted.")
@output_option
@connected
def top(app: str, order: str, watch: bool, output: str) -> None:
    """Show what instances use: cores, memory, requests.

    OF ASKED is the share of the cores that it asked for, OF LIMIT that of its memory limit. UNDER WAY are requests and connections that
    have no answer yet. Nodes measure every 5 s; "-" is not known.
    """
    if watch and output not in ("table", "wide"):
        raise GestaltError(Kind.INVALID, f"--watch goes with tables only, not with -o {output}", hint="leave out one of both")

    async def work(client: Client) -> None:
        while True:
            if watch and is_terminal():
                print(_CLEAR, end="")
            _print(await below(client, app), order, output)
            if not watch:
                return
            await asyncio.sleep(AGAIN)

    converse(work)


def _print(known: api_pb2.ListReply, order: str, output: str) -> None:
    instances = sorted(known.instances, key=lambda item: (-_ORDERS[order](item.usage), item.id))
    emit(
        output,
        lambda: {"instances": _shapes(instances)},
        lambda: [item.id for item in instances],
        lambda wide: print_table(_COLUMNS, map(_row, instances), wide=wide, empty="nothing runs here; gestaltctl ps --apps lists the apps"),
    )


def _row(item: model_pb2.Instance) -> tuple[str, ...]:
    usage = item.usage
    if not item.HasField("usage"):
        return (item.id, item.node or "-", *["-"] * 6, item.app)
    return (
        item.id, item.node, f"{usage.cpu:.2f}", _share(usage.cpu_share), show_size(usage.memory), _share(usage.memory_share),
        f"{usage.requests:.1f}", f"{usage.queue:g}", item.app,
    )  # fmt: skip


def _share(part: float) -> str:
    """Return a share in percent; of nothing there is none."""
    return f"{part:.0%}" if part else "-"


def _shapes(instances: list[model_pb2.Instance]) -> list[dict[str, object]]:
    from gestalt.ctl.shapes import shape

    return [shape(item) for item in instances]
