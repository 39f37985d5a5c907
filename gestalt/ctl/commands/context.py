"""context: which cluster to talk to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl import contexts
from gestalt.ctl.options import connected, examples, invocation, output_option
from gestalt.ctl.output import Column, emit, print_table

if TYPE_CHECKING:
    from gestalt.client import Client

_COLUMNS = (Column(""), Column("CONTEXT"), Column("COORDINATORS"))


@click.group(epilog=examples("gestaltctl context list", "gestaltctl context use prod", "gestaltctl --context test ps"))
def context() -> None:
    """Choose the cluster to talk to.

    Contexts are read from the file of --config or GESTALT_CONFIG, else ~/.config/gestalt/config.yaml, else
    /etc/gestalt/client.yaml, which the appliance makes.
    """


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    from gestalt.errors import GestaltError

    try:
        names = contexts.load(contexts.find(invocation(ctx).config)).contexts
    except GestaltError:
        return []
    return [name for name in names if name.startswith(incomplete)]


@context.command("list")
@output_option
@connected
@click.pass_context
def list_contexts(ctx: click.Context, output: str) -> None:
    """List the contexts; the current one is marked."""
    file = contexts.load(contexts.find(invocation(ctx).config))
    emit(
        output,
        lambda: {"current": file.current, "contexts": [_shape(item) for item in file.contexts.values()]},
        lambda: list(file.contexts),
        lambda _: print_table(
            _COLUMNS,
            [("*" if item.name == file.current else "", item.name, ", ".join(item.coordinators)) for item in file.contexts.values()],
        ),
    )


@context.command("use")
@click.argument("name", shell_complete=_complete)
@connected
@click.pass_context
def use_context(ctx: click.Context, name: str) -> None:
    """Make a context the current one, in its file."""
    contexts.use(contexts.load(contexts.find(invocation(ctx).config)), name)
    print(f"the current context is {name}")


@context.command("renew", epilog=examples("gestaltctl context renew", "gestaltctl context renew prod"))
@click.argument("name", required=False, default="", shell_complete=_complete)
@connected
@click.pass_context
def renew_context(ctx: click.Context, name: str) -> None:
    """Get another certificate for the same user and the same key, for another year.

    Only while the present one is good. One that has expired is made anew on a coordinator's machine: gestaltctl cluster certificate.
    """
    said = invocation(ctx)
    said.context = name or said.context
    chosen = contexts.choose(said.config, said.context)
    _renew(chosen)
    print(f"{chosen.certificate} was renewed")


def _renew(chosen: contexts.Context) -> None:
    from gestalt.ctl.session import converse
    from gestalt.errors import GestaltError, Kind
    from gestalt.files import write_atomic
    from gestalt.pki import is_for_key, signing_request

    async def work(client: Client) -> str:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.RenewCertificateRequest(signing_request=signing_request(chosen.key, chosen.name))
        return (await client.call(lambda api: api.control_plane.RenewCertificate, request)).certificate

    certificate = converse(work)
    if not is_for_key(certificate, chosen.key):
        raise GestaltError(Kind.FAILED, "what the coordinator sent is no certificate of our key", hint="see the coordinator's log")
    try:
        write_atomic(chosen.certificate, certificate)
    except OSError as error:
        raise GestaltError(
            Kind.REFUSED, f"{chosen.certificate} cannot be written: {error.strerror}", hint="run this as its owner, for example with sudo"
        ) from error


@context.command("show")
@click.argument("name", required=False, default="", shell_complete=_complete)
@output_option
@connected
@click.pass_context
def show_context(ctx: click.Context, name: str, output: str) -> None:
    """Show the context that commands use, or the one that is named."""
    said = invocation(ctx)
    file = contexts.load(contexts.find(said.config))
    chosen = file.choose(name or said.context or os.environ.get("GESTALT_CONTEXT", ""))

    def people(_: bool) -> None:
        for key, content in {**_shape(chosen), "coordinators": ", ".join(chosen.coordinators), "file": file.path}.items():
            print(f"{key + ':':<14}{content}")

    emit(output, lambda: {**_shape(chosen), "file": str(file.path)}, lambda: [chosen.name], people)


def _shape(item: contexts.Context) -> dict[str, Any]:
    return {
        "name": item.name,
        "coordinators": list(item.coordinators),
        "ca": str(item.ca),
        "certificate": str(item.certificate),
        "key": str(item.key),
    }
