"""`gestaltctl appliance`: set up, start, stop and remove the appliance on this machine.

What it does is in `gestalt.appliance`; imported by each command when it runs, as gRPC and cryptography take their time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gestalt.ctl.exits import Exit
from gestalt.ctl.options import Duration, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.report import notice
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.appliance.init import Made
    from gestalt.appliance.layout import Layout
    from gestalt.appliance.status import PartState

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def appliance() -> None:
    """Set up and run the appliance on this machine: one node that is a whole Gestalt."""


def _root_option(command: F) -> F:
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("/"),
        envvar="GESTALT_ROOT",
        show_default=True,
        show_envvar=True,
        help="Folder in which etc, var and run lie.",
    )(command)


def _layout(root: Path) -> Layout:
    from gestalt.appliance.layout import Layout

    return Layout(root.resolve())


def _port_range(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, _, last = value.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise click.BadParameter(f"{value!r} is not a range of ports; allowed: 3000-4000", ctx, param)
    return int(first), int(last)


_PORT = click.IntRange(1, 65535)


@appliance.command(epilog=examples("gestaltctl appliance init", "gestaltctl appliance init --http-port 8080"))
@_root_option
@click.option("--node-name", metavar="NAME", help="Name of this node.  [default: the host name]")
@click.option("--api-port", type=_PORT, metavar="PORT", help="Port of the API, on loopback.  [default: 7400]")
@click.option("--http-port", type=_PORT, metavar="PORT", help="Port on which HAProxy serves http.  [default: 80]")
@click.option("--stats-port", type=_PORT, metavar="PORT", help="Port of HAProxy's statistics.  [default: none]")
@click.option("--health-port", type=_PORT, metavar="PORT", help="Port of the agent's health service, on loopback.  [default: 7402]")
@click.option("--port-range", callback=_port_range, metavar="FIRST-LAST", help="Host ports for instances.  [default: 3000-4000]")
@click.option("--docker-socket", type=click.Path(path_type=Path), metavar="FILE", help="Docker's socket.  [default: /var/run/docker.sock]")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Runtime to offer; may be repeated.  [default: docker, process]")
def init(root: Path, runtimes: tuple[str, ...], **choices: Any) -> None:
    """Make ids, certificates and settings. What exists already is kept."""
    from gestalt.appliance.init import InitOptions, initialise

    layout = _layout(root)
    with _file_errors(layout):
        files = initialise(layout, InitOptions(runtimes=runtimes or None, **choices))
    _show_files(files)
    click.echo(f"next: gestaltctl appliance up{_root_words(layout)}")


@appliance.command(epilog=examples("gestaltctl appliance up", "gestaltctl appliance up --timeout 2m"))
@_root_option
@click.option("--timeout", type=Duration(), default=60.0, metavar="TIME", show_default="1m", help="Wait at most this long.")
def up(root: Path, timeout: float) -> None:
    """Start the daemons and wait until they are ready. What runs already is left alone."""
    from gestalt.appliance.lifecycle import agent_settings_of
    from gestalt.appliance.lifecycle import up as start

    layout = _layout(root)
    with _file_errors(layout):
        asyncio.run(start(layout, click.echo, timeout))
    settings = agent_settings_of(layout)
    click.echo(f"the appliance is up: apps are served on http port {settings.proxy.http_port}")
    if not layout.is_machine:
        click.echo(f"for other commands: export GESTALT_CONFIG={layout.client_settings}")


@appliance.command(epilog=examples("gestaltctl appliance down", "gestaltctl appliance down --stop-apps"))
@_root_option
@click.option("--stop-apps", is_flag=True, help="Stop all instances and HAProxy too; the next `up` starts them again.")
@click.option("--skip-unavailable", is_flag=True, help="With --stop-apps: leave what a runtime that does not answer may have.")
def down(root: Path, stop_apps: bool, skip_unavailable: bool) -> None:
    """Stop the daemons. Instances and HAProxy go on running, unless told otherwise."""
    from gestalt.appliance import lifecycle, removal

    layout = _layout(root)

    async def work() -> None:
        await lifecycle.down(layout, click.echo)
        if stop_apps:
            await removal.stop_apps(layout, click.echo, skip_unavailable=skip_unavailable)

    with _file_errors(layout):
        lifecycle.agent_settings_of(layout)
        asyncio.run(work())
    if not stop_apps:
        click.echo("instances and HAProxy go on running; --stop-apps stops them too")


@appliance.command(epilog=examples("gestaltctl appliance destroy", "gestaltctl appliance destroy --yes"))
@_root_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--skip-unavailable", is_flag=True, help="Leave what a runtime that does not answer may have.")
def destroy(root: Path, yes: bool, skip_unavailable: bool) -> None:
    """Stop everything and remove every trace: instances, their volumes, HAProxy, state, settings, certificates."""
    from gestalt.appliance import removal

    layout = _layout(root)
    if not yes:
        question = f"Remove the appliance below {layout.root} with all its apps and their data?"
        if not sys.stdin.isatty():
            raise GestaltError(Kind.REFUSED, "destroy asks before it removes everything, and there is no terminal", hint="add --yes")
        click.confirm(question, abort=True, err=True)
    with _file_errors(layout):
        asyncio.run(removal.destroy(layout, click.echo, skip_unavailable=skip_unavailable))


@appliance.command(epilog=examples("gestaltctl appliance status", "gestaltctl appliance status -o json"))
@_root_option
@output_option
def status(root: Path, output: str) -> int:
    """Say which parts of the appliance work. Exit code 8 when one that is needed does not."""
    from gestalt.appliance.status import look

    layout = _layout(root)
    with _file_errors(layout):
        parts = asyncio.run(look(layout))
    emit(output, lambda: [_shape(part) for part in parts], lambda: (part.part for part in parts), lambda wide: _show_parts(parts, wide))
    return Exit.OK if all(part.ok or not part.needed for part in parts) else Exit.FAILED


def _show_files(files: list[Made]) -> None:
    for file in files:
        click.echo(f"{'made' if file.made else 'kept'}  {file.path}" + (f"  ({file.note})" if file.note else ""))
    if not any(file.made for file in files):
        notice("everything was there already; nothing was changed")


def _shape(part: PartState) -> dict[str, Any]:
    return {"part": part.part, "ok": part.ok, "needed": part.needed, "state": part.state, "detail": part.detail}


def _show_parts(parts: list[PartState], wide: bool) -> None:
    columns = (Column("PART"), Column("STATE", state=True), Column("DETAIL", fold=True))
    print_table(columns, [(part.part, part.state, part.detail) for part in parts], wide=wide)


def _root_words(layout: Layout) -> str:
    return "" if layout.is_machine else f" --root {layout.root}"


@contextlib.contextmanager
def _file_errors(layout: Layout) -> Iterator[None]:
    """Turn what the file system refuses into a sentence with a way out."""
    try:
        yield
    except PermissionError as error:
        raise GestaltError(Kind.REFUSED, f"{error.filename} may not be used by this user", hint="run this with sudo") from error
    except OSError as error:
        where = error.filename or layout.root
        raise GestaltError(
            Kind.FAILED, f"{where}: {error.strerror or error}", hint=f"is there room, and is it writable? df -h {where}"
        ) from error
