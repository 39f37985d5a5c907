"""cluster zookeeper: which servers ZooKeeper has. Speaks to ZooKeeper itself, with what a coordinator's machine has on disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gestalt.ctl.options import examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.report import notice
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.cluster.servers import Reconfiguration
    from gestalt.zk.ensemble import Ensemble, Server

T = TypeVar("T")

_COLUMNS = (Column("SERVER", right=True), Column("CLIENTS AT"), Column("HOST"), Column("PEER PORT", right=True), Column("VOTES"))
_PORT = click.IntRange(1, 65535)


@click.group(
    epilog=examples(
        "gestaltctl cluster zookeeper list",
        "gestaltctl cluster zookeeper add 4 10.0.0.4 --super-secret-file zookeeper-super.secret",
        "gestaltctl cluster zookeeper remove 2 --super-secret-file zookeeper-super.secret",
    )
)
def zookeeper() -> None:
    """Replace ZooKeeper's servers one by one, while the cluster goes on.

    Run it on a coordinator's machine, as root. Coordinators and fences learn of the servers that there are from ZooKeeper itself.
    """


def _access(command: Any) -> Any:
    root = click.option(
        "--root", type=click.Path(file_okay=False, path_type=Path), default=Path("/"), show_default=True, help="Folder of etc and var."
    )
    secret = click.option(
        "--super-secret-file",
        "secret",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        metavar="FILE",
        help="The secret of ZooKeeper's administrator.  [default: what the coordinator has]",
    )
    return root(secret(output_option(command)))


def _speak(root: Path, secret: Path | None, work: Callable[[Reconfiguration], Awaitable[T]]) -> T:
    import asyncio

    from gestalt.cluster.layout import ClusterLayout
    from gestalt.cluster.servers import reconfiguration
    from gestalt.config import CoordinatorSettings
    from gestalt.settings_file import load_settings

    async def talk() -> T:
        settings = load_settings(ClusterLayout(root.resolve()).coordinator_settings, CoordinatorSettings)
        async with reconfiguration(settings, secret) as conversation:
            return await work(conversation)

    try:
        return asyncio.run(talk())
    except PermissionError as error:
        raise GestaltError(Kind.REFUSED, f"{error.filename} may not be used by this user", hint="run this with sudo") from error


@zookeeper.command("list", epilog=examples("gestaltctl cluster zookeeper list"))
@_access
def list_(root: Path, secret: Path | None, output: str) -> None:
    """List ZooKeeper's servers, as they say themselves."""
    _tell(_speak(root, secret, lambda conversation: conversation.ensemble()), output)


@zookeeper.command(
    epilog=examples("gestaltctl cluster zookeeper add 4 10.0.0.4", "gestaltctl cluster zookeeper add 4 10.0.0.4:2181 --observer")
)
@click.argument("number", type=click.IntRange(0, 255), metavar="SERVER")
@click.argument("address", metavar="HOST[:PORT]")
@click.option("--peer-port", type=_PORT, default=2888, metavar="PORT", show_default=True, help="At which the other servers reach it.")
@click.option("--election-port", type=_PORT, default=3888, metavar="PORT", show_default=True, help="At which they elect.")
@click.option("--observer", is_flag=True, help="It has no vote.")
@click.option("--force", is_flag=True, help="Although it does not answer now.")
@_access
def add(number: int, address: str, root: Path, secret: Path | None, output: str, **how: Any) -> None:
    """Take in a server that runs already.

    SERVER is the number in its myid. Its zoo.cfg lists all present servers and itself.
    """

    force = how.pop("force")

    async def work(conversation: Reconfiguration) -> tuple[bool, Ensemble]:
        changed = await conversation.add(_server(number, address, **how), blindly=force)
        return changed, await conversation.ensemble()

    _told(_speak(root, secret, work), output, f"server {number} is one of them already")


@zookeeper.command(epilog=examples("gestaltctl cluster zookeeper remove 2"))
@click.argument("number", type=click.IntRange(0, 255), metavar="SERVER")
@_access
def remove(number: int, root: Path, secret: Path | None, output: str) -> None:
    """Take a server out, whether it runs or not. Then stop it, and empty its data before it ever runs again."""

    async def work(conversation: Reconfiguration) -> tuple[bool, Ensemble]:
        return await conversation.remove(number), await conversation.ensemble()

    _told(_speak(root, secret, work), output, f"server {number} is none of them")


@zookeeper.command(epilog=examples("gestaltctl cluster zookeeper digest zookeeper-super.secret"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@output_option
def digest(file: Path, output: str) -> None:
    """Print the option that lets ZooKeeper know its administrator by the secret in FILE, which is made if there is none.

    The option belongs on the command line of each server's Java (for many packages SERVER_JVMFLAGS); the secret cannot be read from it.
    """
    from gestalt.cluster.secrets import ensure_secret, read_secret
    from gestalt.cluster.servers import SUPER
    from gestalt.zk.acl import digest_id

    try:
        made = ensure_secret(file)
    except OSError as error:
        raise GestaltError(Kind.REFUSED, f"{file} cannot be written: {error.strerror}", hint="choose another file") from error
    name = digest_id(SUPER, read_secret(file)).removeprefix("digest:")
    option = f"-Dzookeeper.DigestAuthenticationProvider.superDigest={name}"
    emit(output, lambda: {"file": str(file), "made": made, "option": option}, lambda: [option], lambda _: print(option))


def _server(number: int, address: str, *, peer_port: int, election_port: int, observer: bool) -> Server:
    from gestalt.zk.ensemble import Server

    host, colon, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
    host, port = (host, port) if colon else (address, "2181")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.UsageError(f"{address!r} is not HOST:PORT, such as 10.0.0.4:2181", click.get_current_context())
    return Server(number, host, peer_port, election_port, f"{host}:{port}", votes=not observer)


def _told(outcome: tuple[bool, Ensemble], output: str, unchanged: str) -> None:
    changed, ensemble = outcome
    _tell(ensemble, output)
    if not changed:
        notice(f"{unchanged}; nothing was changed")


def _tell(ensemble: Ensemble, output: str) -> None:
    from dataclasses import asdict

    from gestalt.cluster.servers import note_on

    rows = [
        [str(server.id), server.client or "?", server.host, str(server.peer_port), "yes" if server.votes else "no"]
        for server in ensemble.servers
    ]
    emit(
        output,
        lambda: {"servers": [asdict(server) for server in ensemble.servers], "version": ensemble.version},
        lambda: [str(server.id) for server in ensemble.servers],
        lambda _: print_table(_COLUMNS, rows),
    )
    if note := note_on(ensemble):
        notice(note)
