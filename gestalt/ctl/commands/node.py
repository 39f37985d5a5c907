"""node: tokens for machines that join, and what operators decide about nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out
from gestalt.ctl.commands.cluster import labels_of
from gestalt.ctl.options import Duration, Following, connected, examples, output_option, task_options
from gestalt.ctl.output import emit
from gestalt.ctl.report import notice
from gestalt.ctl.session import converse
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from gestalt.client import Api, Client
    from gestalt.proto.v1 import api_pb2


@click.group(epilog=examples("gestaltctl node token --out token", "gestaltctl node drain web-3", "gestaltctl node label web-3 rack=b"))
def node() -> None:
    """Let machines join, and say how nodes are to be used.

    `gestaltctl nodes` lists them. NODE is a name, an id or the beginning of an id.
    """


@node.command(
    epilog=examples(
        "gestaltctl node token --out token; scp token web-3: ; ssh web-3 gestalt-agent join --token-file token",
        "gestaltctl node token | ssh web-3 gestalt-agent join --token-file -",
        "gestaltctl node token --coordinator --lifetime 10m",
    )
)
@click.option("--coordinator", is_flag=True, help="For a machine that joins as a coordinator.")
@click.option("--lifetime", type=Duration(), default=3600.0, metavar="TIME", show_default="1h", help="For how long it is good, at most 7d.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it to a file that only you can read.")
@connected
@output_option
def token(coordinator: bool, lifetime: float, out: Path | None, output: str) -> None:
    """Make a token that admits one machine, once.

    It is a secret: who has it can join. It also tells the machine by which certificate to know this cluster.
    """

    async def work(client: Client) -> api_pb2.TokenReply:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.TokenRequest(purpose="coordinator" if coordinator else "node", lifetime=lifetime)
        return await client.call(lambda api: api.nodes.Token, request)

    reply = converse(work)
    expires = reply.expires_at.ToJsonString()
    if out is None:
        emit(output, lambda: {"token": reply.token, "expires_at": expires}, lambda: [reply.token], lambda _: print(reply.token))
        return
    _write_secret(out, reply.token)
    emit(
        output, lambda: {"file": str(out), "expires_at": expires}, lambda: [str(out)], lambda _: print(f"{out}: good until {expires}, once")
    )


def _write_secret(file: Path, text: str) -> None:
    from gestalt.files import write_atomic

    try:
        write_atomic(file, text + "\n", mode=0o600)
    except OSError as error:
        raise GestaltError(Kind.REFUSED, f"{file} cannot be written: {error.strerror}", hint="choose another --out") from error


def _node_options(command: Any) -> Any:
    argument = click.argument("name", metavar="NODE")
    identity = click.option("--request-id", default="", metavar="UUID", help="Make a repeated call harmless: the same id acts once.")
    return argument(identity(connected(output_option(command))))


@node.command(epilog=examples("gestaltctl node cordon web-3"))
@_node_options
def cordon(name: str, request_id: str, output: str) -> None:
    """Place nothing new on a node. What runs there goes on."""
    _simple(lambda api: api.nodes.Cordon, name, request_id, output, "is cordoned")


@node.command(epilog=examples("gestaltctl node uncordon web-3"))
@_node_options
def uncordon(name: str, request_id: str, output: str) -> None:
    """Let a node take new instances again, after it was cordoned, drained, or while it drains."""
    _simple(lambda api: api.nodes.Uncordon, name, request_id, output, "takes new instances")


@node.command(
    epilog=examples(
        "gestaltctl node drain web-3", "gestaltctl node drain web-3 --deadline 1h --parallel 20", "gestaltctl node drain web-3 --detach"
    )
)
@click.argument("name", metavar="NODE")
@click.option("--deadline", type=Duration(), metavar="TIME", help="Stop what is left then, also without a healthy replacement.")
@click.option("--no-deadline", is_flag=True, help="Wait as long as it takes, which is the default; takes back a --deadline.")
@click.option("--parallel", type=int, metavar="N", help="So many instances are on the move at once.  [default: 10]")
@task_options
def drain(name: str, deadline: float | None, no_deadline: bool, parallel: int | None, **how: Any) -> None:
    """Have everything that runs on a node run elsewhere, and place nothing new there.

    Each instance stops when its replacement is healthy, as in an update. What may exist only once, or has a fixed host port, stops first,
    and only if there is room for it elsewhere. What finds no room stays, and is told, until the deadline. Asked for again it changes the
    limits of the drain. `uncordon` ends it.
    """
    if no_deadline and deadline is not None:
        raise click.UsageError("--deadline and --no-deadline exclude each other", click.get_current_context())

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.DrainRequest(node=name, deadline=deadline, parallel=parallel, no_deadline=no_deadline)
        await carry_out(client, lambda api: api.nodes.Drain, request, Following(**how))

    converse(work)


@node.command(
    epilog=examples(
        "gestaltctl node maintenance web-3 --reason 'new disks' --for 2h",
        "gestaltctl node maintenance web-3 --keep",
        "gestaltctl node maintenance web-3 --end",
    )
)
@click.argument("name", metavar="NODE")
@click.option("--reason", default="", metavar="TEXT", help="Why, for people: shown with the node.")
@click.option("--for", "lasts", type=Duration(), metavar="TIME", help="It ends by itself so long after its beginning.")
@click.option("--keep", is_flag=True, help="What runs there stays: place nothing new, and expect it to be away.")
@click.option("--deadline", type=Duration(), metavar="TIME", help="Of the drain: stop what is left then.")
@click.option("--parallel", type=int, metavar="N", help="Of the drain: so many instances are on the move at once.")
@click.option("--end", is_flag=True, help="End it: the node takes instances again.")
@task_options
def maintenance(name: str, end: bool, output: str, request_id: str, **options: Any) -> None:
    """Take a node out of use for a while, so that it may be away without anybody being alarmed.

    It is drained first. Then it is in maintenance until --end, or for the time that is said; meanwhile it may go and come back.
    """
    how = Following(output, options.pop("detach"), options.pop("timeout"), request_id)
    if end and any(options.values()):
        raise click.UsageError("--end goes with nothing else", click.get_current_context())

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        await carry_out(client, lambda api: api.nodes.Maintain, api_pb2.MaintenanceRequest(node=name, end=end, **options), how)

    converse(work)


@node.command(epilog=examples("gestaltctl node remove web-3", "gestaltctl node remove web-3 --force"))
@click.option("--force", is_flag=True, help="Although apps are at work there.")
@_node_options
def remove(name: str, force: bool, request_id: str, output: str) -> None:
    """Take a node out of the cluster and revoke its identity.

    What was placed there is placed elsewhere. The machine itself goes on with what it runs: stop that, or switch it off. To come back
    it needs a new token and `gestalt-agent join --again`.
    """
    _simple(lambda api: api.nodes.Remove, name, request_id, output, "was removed", force=force)


@node.command("confirm-dead", epilog=examples("gestaltctl node confirm-dead web-3"))
@_node_options
def confirm_dead(name: str, request_id: str, output: str) -> None:
    """Say that a lost node is certainly not at work, so that exclusive apps need not wait.

    Only for a machine that is switched off, or cut off from its storage: if it is at work after all, data may be damaged.
    """
    _simple(lambda api: api.nodes.ConfirmDead, name, request_id, output, "is confirmed dead")


@node.command(
    epilog=examples("gestaltctl node label web-3 rack=b disk=ssd", "gestaltctl node label web-3 rack- --role edge --drop-role dmz")
)
@click.argument("name", metavar="NODE")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE | KEY-]…")
@click.option("--role", "add_roles", multiple=True, metavar="ROLE", help="Give it a role; may be repeated.")
@click.option("--drop-role", "drop_roles", multiple=True, metavar="ROLE", help="Take a role away; may be repeated.")
@click.option("--request-id", default="", metavar="UUID", help="Make a repeated call harmless: the same id acts once.")
@connected
@output_option
def label(name: str, changes: tuple[str, ...], request_id: str, output: str, **roles: tuple[str, ...]) -> None:
    """Put labels and roles on a node, or take them away: KEY=VALUE puts, KEY- takes away."""
    drop = [text[:-1] for text in changes if text.endswith("-") and "=" not in text]
    put = labels_of(tuple(text for text in changes if not (text.endswith("-") and "=" not in text)))
    if not (drop or put or any(roles.values())):
        raise click.UsageError("nothing to change", click.get_current_context())

    async def work(client: Client) -> api_pb2.NodeReply:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.LabelRequest(request=api_pb2.Request(id=request_id), node=name, put=put, drop=drop, **roles)
        return await client.call(lambda api: api.nodes.Label, request)

    _tell(converse(work, patience=60), output, "is labelled")


def _simple(
    pick: Callable[[Api], grpc.aio.UnaryUnaryMultiCallable[api_pb2.NodeRequest, api_pb2.NodeReply]],
    name: str,
    request_id: str,
    output: str,
    words: str,
    *,
    force: bool = False,
) -> None:
    async def work(client: Client) -> api_pb2.NodeReply:
        from gestalt.proto.v1 import api_pb2

        return await client.call(pick, api_pb2.NodeRequest(request=api_pb2.Request(id=request_id), node=name, force=force))

    _tell(converse(work, patience=60), output, words)


def _tell(reply: api_pb2.NodeReply, output: str, words: str) -> None:
    def shape() -> dict[str, Any]:
        from gestalt.ctl.shapes import shape as shape_of

        return {"node": shape_of(reply.node), "changed": reply.changed}

    emit(output, shape, lambda: [reply.node.name], lambda _: print(f"{reply.node.name} {words}"))
    if not reply.changed and output in ("table", "wide"):
        notice("it was so already; nothing was changed")
