"""status: one screen that says whether all is well, and if not why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gestalt.ctl.commands.strategy import told
from gestalt.ctl.exits import Exit
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.session import converse
from gestalt.ctl.style import clean, one_line, paint, style_of
from gestalt.units import show_duration, show_size

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

_WELL_APPS = {"running", "stopped"}
_MOST = 15


class Picture(NamedTuple):
    """What status looks at, asked for at the same time."""

    status: api_pb2.StatusReply
    apps: list[model_pb2.App]
    nodes: list[model_pb2.Node]

    @property
    def unwell(self) -> list[model_pb2.App]:
        return sorted((app for app in self.apps if app.state not in _WELL_APPS), key=lambda app: (app.state != "failed", app.path))


@click.command(epilog=examples("gestaltctl status", "gestaltctl status -o json", "gestaltctl status >/dev/null && echo all is well"))
@output_option
@connected
def status(output: str) -> int:
    """Say whether all is well, and if not why.

    Ends with 0 when all is well, with 8 when something is degraded or failed.
    """
    picture = converse(_ask)
    emit(output, lambda: _shape(picture), lambda: [picture.status.state], lambda wide: _print_picture(picture, wide=wide))
    return Exit.OK if picture.status.state == "well" else Exit.FAILED


async def _ask(client: Client) -> Picture:
    from gestalt.proto.v1 import api_pb2

    status_reply = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
    apps, nodes = await asyncio.gather(
        client.call(lambda api: api.apps.List, api_pb2.ListRequest()), client.call(lambda api: api.nodes.List, api_pb2.ListNodesRequest())
    )
    return Picture(status_reply, list(apps.apps), list(nodes.nodes))


def _shape(picture: Picture) -> dict[str, Any]:
    from gestalt.ctl.shapes import shape

    return {
        **shape(picture.status),
        "apps_not_well": [_app_shape(app) for app in picture.unwell],
        "nodes_not_well": [
            {"name": node.name, "state": node.state, "problems": list(node.problems)} for node in picture.nodes if not _node_is_well(node)
        ],
    }


def _app_shape(app: model_pb2.App) -> dict[str, Any]:
    from gestalt.ctl.shapes import shape

    shortage = shape(app.shortage) if app.HasField("shortage") else None
    return {"path": app.path, "state": app.state, "message": app.message, "shortage": shortage}


def _print_picture(picture: Picture, *, wide: bool) -> None:
    status = picture.status
    print(paint(status.state, style_of(status.state)) + f"  {_summary(status)}")
    _print_list("Problems", [clean(problem) for problem in status.problems])
    _print_list("Apps that are not well", [_app_line(app) for app in (picture.apps if wide else picture.unwell)])
    _print_list("Unknown since the state was restored", [f"{item.node}: {item.instance} of {item.app}" for item in status.unknown])
    _print_list("Nodes", [_node_line(node) for node in picture.nodes])
    if status.strategy or status.pool_strategies:
        _print_list("Apps that name no strategy are placed by that of", told(status.strategy, dict(sorted(status.pool_strategies.items()))))
    _print_list("What to do", _next(picture))
    if wide:
        print(f"\ncluster {status.cluster_id}, epoch {status.epoch}, store {status.store}, version {status.version}")


def _summary(status: api_pb2.StatusReply) -> str:
    running = f", {_count(status.tasks_running, 'task')} under way" if status.tasks_running else ""
    return (
        f"{status.mode}: {_count(status.apps, 'app')}, {status.healthy} of {_count(status.instances, 'instance')} healthy, "
        f"{status.nodes_ready} of {_count(status.nodes, 'node')} ready{running}, up {show_duration(status.uptime)}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{paint(title, 'bold')}")
        for line in lines[:_MOST]:
            print(f"  {line}")
        if len(lines) > _MOST:
            print(f"  and {len(lines) - _MOST} more")


def _app_line(app: model_pb2.App) -> str:
    why = f": {one_line(app.message)}" if app.message else ""
    return f"{app.path}  {paint(app.state, style_of(app.state))}, {app.healthy} of {app.count} healthy{why}"


def _node_line(node: model_pb2.Node) -> str:
    facts = node.facts
    free = f", {show_size(facts.disk_free)} of disk free" if facts.disk else ""
    line = f"{node.name}  {paint(node.state, style_of(node.state))}, {_count(node.instances, 'instance')}, load {facts.load:.2f}{free}"
    return "\n    ".join([line, *(f"{paint('!', 'red')} {clean(problem)}" for problem in node.problems)])


def _node_is_well(node: model_pb2.Node) -> bool:
    return node.state == "ready" and not node.problems


def _next(picture: Picture) -> list[str]:
    """Return the commands that lead on from what is wrong."""
    commands = [_next_for(app) for app in picture.unwell[:2]]
    if picture.status.recovering:
        commands.append("gestaltctl cluster recover --confirm")
    if not all(map(_node_is_well, picture.nodes)):
        commands.append("gestaltctl appliance status" if picture.status.mode == "appliance" else "gestaltctl nodes -o wide")
    if picture.status.newest_format > picture.status.format > 0:
        commands.append("gestaltctl cluster finalize-upgrade")
    if picture.status.state != "well":
        commands.append("gestaltctl events --after 0")
    elif not picture.status.apps:
        commands.append("gestaltctl launch -f FILE")
    return commands


def _next_for(app: model_pb2.App) -> str:
    return f"gestaltctl tasks {app.task} --watch" if app.state == "deploying" and app.task else f"gestaltctl inspect {app.path}"
