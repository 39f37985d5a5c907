"""cluster: set up the first machine, and what holds for the whole cluster."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.commands import certificate, state, strategy, upgrade
from gestalt.ctl.commands import zookeeper as zookeeper_commands
from gestalt.ctl.options import Duration, connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.session import converse
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.client import Client

_PORT = click.IntRange(1, 65535)


@click.group(
    epilog=examples(
        "gestaltctl cluster init --zookeeper 10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181 --address 10.0.0.1", "gestaltctl cluster pause"
    )
)
def cluster() -> None:
    """Set up a cluster of several machines, and steer it as a whole."""


for _command in (
    state.export,
    state.import_,
    state.recover,
    zookeeper_commands.zookeeper,
    upgrade.finalize,
    certificate.certificate,
    strategy.strategy,
):
    cluster.add_command(_command)


@cluster.command(
    epilog=examples(
        "gestaltctl cluster init --zookeeper 10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181 --address 10.0.0.1",
        "gestaltctl cluster init --zookeeper zk1:2181 --address 10.0.0.1 --session 1s --lease 4s",
    )
)
@click.option("--zookeeper", required=True, metavar="HOST:PORT,…", help="ZooKeeper's servers.")
@click.option("--address", required=True, metavar="IP", help="Address of this machine, at which the others reach it.")
@click.option("--name", metavar="NAME", help="Name of this machine.  [default: the host name]")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=Path("/"), show_default=True, help="Folder of etc, var and run."
)
@click.option("--zookeeper-root", default="/gestalt", metavar="PATH", show_default=True, help="Where in ZooKeeper the cluster lies.")
@click.option(
    "--zookeeper-ca",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="Speak TLS to ZooKeeper; its servers' certificates are of this authority.  [default: no TLS]",
)
@click.option(
    "--zookeeper-secret-file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    metavar="FILE",
    help="The secret with which coordinators prove themselves to ZooKeeper.  [default: a new one]",
)
@click.option("--api-port", type=_PORT, default=7400, metavar="PORT", show_default=True, help="Port of the API.")
@click.option("--join-port", type=_PORT, default=7401, metavar="PORT", show_default=True, help="Port at which machines join.")
@click.option("--http-port", type=_PORT, default=80, metavar="PORT", show_default=True, help="Port on which HAProxy serves http.")
@click.option(
    "--stats-port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Port of HAProxy's statistics.  [default: none]"
)
@click.option("--health-port", type=_PORT, default=7402, metavar="PORT", show_default=True, help="Port of the agent's health service.")
@click.option("--port-range", default="3000-4000", metavar="FIRST-LAST", show_default=True, help="Host ports for instances.")
@click.option(
    "--docker-socket", type=click.Path(path_type=Path), default=Path("/var/run/docker.sock"), metavar="FILE", help="Docker's socket."
)
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Runtime to offer; may be repeated.  [default: docker, process]")
@click.option(
    "--hosts-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the nodes' names and addresses in a block of it, /etc/hosts.  [default: nowhere]",
)
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Role of this node, such as edge; may be repeated.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of this node; may be repeated.")
@click.option("--session", type=Duration(), default=2.0, metavar="TIME", show_default="2s", help="After which a silent node is lost.")
@click.option(
    "--lease", type=Duration(), default=8.0, metavar="TIME", show_default="8s", help="For which exclusive things go on unrenewed."
)
@click.option("--kill", type=Duration(), default=2.0, metavar="TIME", show_default="2s", help="Within which they are stopped then.")
@click.option("--from-appliance", is_flag=True, help="Turn the appliance of this machine into it; what runs goes on.")
@click.option("--margin", type=Duration(), default=1.0, metavar="TIME", show_default="1s", help="What clocks may be wrong by.")
@click.option(
    "--storage-fence",
    type=click.Choice(["none", "netfilter"]),
    default="none",
    show_default=True,
    help="What else keeps a lost node from what it held: with netfilter the others refuse its packets until it registers anew.",
)
@output_option
def init(root: Path, output: str, **choices: Any) -> None:
    """Make this machine the first of a cluster.

    Makes ids, certificates, secrets, settings, and what has to be there in ZooKeeper. What exists already is kept, so that an
    interrupted call is completed by the next one.
    """
    import asyncio

    from gestalt.cluster.init import found
    from gestalt.cluster.layout import ClusterLayout

    options = _init_options(choices)
    try:
        files = asyncio.run(found(ClusterLayout(root.resolve()), options))
    except PermissionError as error:
        raise GestaltError(Kind.REFUSED, f"{error.filename} may not be used by this user", hint="run this with sudo") from error

    def people(_: bool) -> None:
        for file in files:
            print(f"{'made' if file.made else 'kept'}  {file.path}" + (f"  ({file.note})" if file.note else ""))
        print("next: systemctl enable --now gestalt-coordinator gestalt-fence gestalt-agent")

    emit(
        output,
        lambda: {"files": [{"path": str(file.path), "made": file.made, "note": file.note} for file in files]},
        lambda: [str(file.path) for file in files],
        people,
    )


def _init_options(choices: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from gestalt.cluster.init import InitOptions
    from gestalt.cluster.settings import NodeChoices
    from gestalt.config import TimingSettings

    try:
        timing = TimingSettings(**{name: choices[name] for name in ("session", "lease", "kill", "margin")})
    except ValidationError as error:
        problems = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise GestaltError(Kind.INVALID, f"the times do not fit together: {problems}", hint="gestaltctl cluster init --help") from error
    same = ("http_port", "stats_port", "health_port", "docker_socket", "runtimes", "roles", "hosts_file")
    node = NodeChoices(
        labels=labels_of(choices["labels"]), port_range=_port_range(choices["port_range"]), **{name: choices[name] for name in same}
    )
    return InitOptions(
        zookeeper=tuple(filter(None, choices["zookeeper"].split(","))),
        address=choices["address"],
        name=choices["name"] or socket.gethostname().partition(".")[0] or "node",
        zookeeper_root=choices["zookeeper_root"],
        zookeeper_ca=choices["zookeeper_ca"],
        zookeeper_secret=choices["zookeeper_secret_file"],
        api_port=choices["api_port"],
        join_port=choices["join_port"],
        timing=timing,
        from_appliance=choices["from_appliance"],
        storage_fence=choices["storage_fence"],
        node=node,
    )


def labels_of(texts: tuple[str, ...]) -> dict[str, str]:
    """Return labels written as KEY=VALUE."""
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise click.UsageError(f"{key!r} is not a label; allowed: KEY=VALUE", click.get_current_context())
    return {key: value for key, _, value in pairs}


def _port_range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise click.UsageError(f"{text!r} is not a range of ports; allowed: 3000-4000", click.get_current_context())
    return int(first), int(last)


@cluster.command(epilog=examples("gestaltctl cluster pause --reason 'switch maintenance'"))
@click.option("--reason", default="", metavar="TEXT", help="Shown to whoever looks.")
@connected
@output_option
def pause(reason: str, output: str) -> None:
    """Stop all automatic replacement of instances until `resume`. Leases hold on."""
    _switch(output, reason, pausing=True)


@cluster.command(epilog=examples("gestaltctl cluster resume"))
@connected
@output_option
def resume(output: str) -> None:
    """Let instances be replaced again."""
    _switch(output, "", pausing=False)


def _switch(output: str, reason: str, *, pausing: bool) -> None:
    async def work(client: Client) -> bool:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.PauseRequest(reason=reason)
        reply = await client.call(lambda api: api.cluster.Pause if pausing else api.cluster.Resume, request)
        return bool(reply.changed)

    changed = converse(work, patience=60)
    state = "paused" if pausing else "resumed"
    sentence = f"automatic replacement is {state}" if changed else f"automatic replacement was {state} already"
    emit(output, lambda: {"paused": pausing, "changed": changed}, list, lambda _: print(sentence))


@cluster.command(name="step-down", epilog=examples("gestaltctl cluster step-down --reason 'this machine is to be restarted'"))
@click.option("--reason", default="", metavar="TEXT", help="Written to the log of the coordinator.")
@connected
@output_option
def step_down(reason: str, output: str) -> None:
    """Have the leading coordinator hand over to another one, at once. No instance is touched."""

    async def work(client: Client) -> tuple[int, int, str]:
        from gestalt.proto.v1 import api_pb2

        before = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        await client.call(lambda api: api.cluster.StepDown, api_pb2.StepDownRequest(reason=reason, epoch=before.epoch))
        return before.epoch, *await _next_leader(client, before.epoch)

    ended, epoch, name = converse(work, patience=30)
    sentence = f"{name} leads now, in epoch {epoch}"
    emit(output, lambda: {"ended": ended, "epoch": epoch, "leader": name}, lambda: [name], lambda _: print(sentence))


async def _next_leader(client: Client, ended: int) -> tuple[int, str]:
    """Return epoch and name of the first leader after the epoch that ended."""
    import asyncio

    from gestalt.proto.v1 import api_pb2

    while True:
        now = await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        if now.epoch > ended:
            return now.epoch, next((item.name for item in now.coordinators if item.leader), "another coordinator")
        await asyncio.sleep(0.05)
