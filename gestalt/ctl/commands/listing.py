"""ps, nodes: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import complete_apps
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.resolve import choose_app, everything
from gestalt.ctl.session import converse
from gestalt.units import show_duration, show_size

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

_PS = (
    Column("INSTANCE"),
    Column("APP"),
    Column("VERSION", right=True),
    Column("NODE"),
    Column("PHASE", state=True),
    Column("HEALTH", state=True),
    Column("RESTARTS", right=True),
    Column("AGE", right=True),
    Column("PORTS"),
    Column("REASON", fold=True),
    Column("ATTEMPT", right=True, wide=True),
    Column("READY", wide=True),
    Column("RUNTIME ID", wide=True),
    Column("CORES", right=True, wide=True),
    Column("MEMORY", right=True, wide=True),
)
_APPS = (
    Column("APP"),
    Column("STATE", state=True),
    Column("HEALTHY", right=True),
    Column("VERSION", right=True),
    Column("STABLE", right=True, wide=True),
    Column("REVISION", right=True, wide=True),
    Column("PRIORITY", right=True, wide=True),
    Column("RUNTIME", wide=True),
    Column("IMAGE"),
    Column("AGE", right=True),
    Column("REASON", fold=True),
    Column("AUTOSCALING", wide=True, fold=True),
)
_NODES = (
    Column("NODE"),
    Column("STATE", state=True),
    Column("INSTANCES", right=True),
    Column("CPU", right=True),
    Column("MEMORY", right=True),
    Column("LOAD", right=True),
    Column("ADDRESS"),
    Column("SEEN", right=True),
    Column("RUNTIMES", wide=True),
    Column("VERSION", wide=True),
    Column("OS", wide=True),
    Column("ID", wide=True),
    Column("PROBLEMS", fold=True),
)


@click.command(
    epilog=examples(
        "gestaltctl ps",
        "gestaltctl ps /shop/main/prod",
        "gestaltctl ps --apps",
        "gestaltctl ps web -o wide",
        "gestaltctl ps -o name | wc -l",
    )
)
@click.argument("app", required=False, default="", metavar="[APP|PREFIX]", shell_complete=complete_apps)
@click.option("-a", "--apps", is_flag=True, help="List apps, also those without instances.")
@output_option
@connected
def ps(app: str, apps: bool, output: str) -> None:
    """List instances, or with --apps the apps.

    APP is a path, the beginning of paths, or the end of one path.
    """
    known = converse(lambda client: below(client, app))
    if apps:
        _print_apps(known, output)
    else:
        _print_instances(known, output)


async def below(client: Client, text: str) -> api_pb2.ListReply:
    """Return what is below a prefix. A short name is looked for among all, which costs no second call."""
    known = await everything(client, text if text.startswith("/") else "")
    if not text or text.startswith("/"):
        return known
    path = choose_app(known, text)
    kept = type(known)()
    kept.apps.extend(app for app in known.apps if app.path == path)
    kept.instances.extend(item for item in known.instances if item.app == path)
    return kept


def _print_instances(known: api_pb2.ListReply, output: str) -> None:
    instances = sorted(known.instances, key=lambda item: (item.app, item.serial))
    emit(
        output,
        lambda: {"instances": _shapes(instances)},
        lambda: [item.id for item in instances],
        lambda wide: print_table(_PS, (_instance_row(item, wide=wide) for item in instances), wide=wide, empty=_nothing(known)),
    )


def _nothing(known: api_pb2.ListReply) -> str:
    if known.apps:
        return "no instances; gestaltctl ps --apps lists the apps"
    return "nothing runs here; gestaltctl launch -f FILE launches an app"


def _instance_row(item: model_pb2.Instance, *, wide: bool) -> tuple[str, ...]:
    from gestalt.ctl import words

    seen = item.observed
    return (
        item.id, item.app, str(item.version), item.node or "-", words.phase(item), words.health(item), str(seen.restarts), words.age(item),
        words.ports(item, wide=wide), words.why(item, 0 if wide else 120), str(seen.attempt), "yes" if seen.ready else "no",
        seen.runtime_id[:12], *words.usage(item),
    )  # fmt: skip


def _print_apps(known: api_pb2.ListReply, output: str) -> None:
    apps = sorted(known.apps, key=lambda app: app.path)
    emit(
        output,
        lambda: {"apps": _shapes(apps)},
        lambda: [app.path for app in apps],
        lambda wide: print_table(_APPS, (_app_row(app) for app in apps), wide=wide, empty=_nothing(known)),
    )


def _app_row(app: model_pb2.App) -> tuple[str, ...]:
    from gestalt.ctl import words

    return (
        app.path, app.state or "unknown", f"{app.healthy}/{app.count}", str(app.version), str(app.stable_version or "-"),
        str(app.revision), str(app.spec.placement.priority), app.spec.runtime, app.spec.image or " ".join(app.spec.command)[:40],
        words.since(app.created_at), app.message, app.autoscaling,
    )  # fmt: skip


@click.command(epilog=examples("gestaltctl nodes", "gestaltctl nodes -o wide", "gestaltctl nodes -o json"))
@output_option
@connected
def nodes(output: str) -> None:
    """List the nodes.

    CPU and MEMORY say how much is promised to instances, of how much there is.
    """

    async def ask(client: Client) -> api_pb2.ListNodesReply:
        from gestalt.proto.v1 import api_pb2

        return await client.call(lambda api: api.nodes.List, api_pb2.ListNodesRequest())

    reply = converse(ask)
    found = sorted(reply.nodes, key=lambda node: node.name)
    emit(
        output,
        lambda: {"nodes": _shapes(found)},
        lambda: [node.name for node in found],
        lambda wide: print_table(_NODES, map(_node_row, found), wide=wide, empty="no node is known; gestaltctl appliance status"),
    )


def _node_row(node: model_pb2.Node) -> tuple[str, ...]:
    facts, used = node.facts, node.allocated
    return (
        node.name, node.state, str(node.instances), f"{used.cpu:g}/{facts.cpu:g}", f"{show_size(used.memory)}/{show_size(facts.memory)}",
        f"{facts.load:.2f}", node.address, show_duration(node.last_seen), ",".join(facts.runtimes), node.agent_version,
        facts.os, node.id, "; ".join(node.problems),
    )  # fmt: skip


def _shapes(messages: list[model_pb2.Instance] | list[model_pb2.App] | list[model_pb2.Node]) -> list[dict[str, object]]:
    from gestalt.ctl.shapes import shape

    return [shape(message) for message in messages]
