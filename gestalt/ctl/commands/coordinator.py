"""coordinator: which there are, and taking one out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2

_COLUMNS = (Column("COORDINATOR"), Column("ADDRESS"), Column("STATE", state=True), Column("VERSION"))


@click.group(epilog=examples("gestaltctl coordinator list", "gestaltctl coordinator remove three"))
def coordinator() -> None:
    """List the coordinators, and take one out.

    Another one joins with `gestaltctl node token --coordinator` and `gestalt-coordinator join`.
    """


@coordinator.command("list", epilog=examples("gestaltctl coordinator list", "gestaltctl coordinator list --save"))
@click.option("--save", is_flag=True, help="Write their addresses into the context, so that gestaltctl finds any of them.")
@connected
@output_option
def list_(save: bool, output: str) -> None:
    """List the coordinators: who leads, who stands by, who is away."""

    async def work(client: Client) -> list[api_pb2.Coordinator]:
        from gestalt.proto.v1 import api_pb2

        return list((await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())).coordinators)

    found = converse(work)
    if save:
        _save([item.address for item in found])
    rows = [[item.name, item.address, item.state, item.version or "-"] for item in found]
    emit(
        output,
        lambda: {"coordinators": [_shape(item) for item in found]},
        lambda: [item.name for item in found],
        lambda _: print_table(_COLUMNS, rows, empty="an appliance has one coordinator and no list of them"),
    )


def _shape(item: api_pb2.Coordinator) -> dict[str, Any]:
    from gestalt.ctl.shapes import shape

    return shape(item)


def _save(addresses: list[str]) -> None:
    from gestalt.ctl import contexts
    from gestalt.ctl.options import invocation
    from gestalt.ctl.report import notice

    said = invocation(click.get_current_context())
    context = contexts.choose(said.config, said.context)
    path = contexts.find(said.config)
    if contexts.save_coordinators(path, context.name, addresses):
        notice(f"{path}: context {context.name} has these coordinators now")


@coordinator.command(epilog=examples("gestaltctl coordinator remove three"))
@click.argument("name", metavar="NAME")
@click.option("--request-id", default="", metavar="UUID", help="Make a repeated call harmless: the same id acts once.")
@connected
@output_option
def remove(name: str, request_id: str, output: str) -> None:
    """Take a coordinator out of the cluster: it does not lead any more.

    Then stop its service: systemctl disable --now gestalt-coordinator. The machine still knows the secrets that all coordinators share;
    if it cannot be trusted, see "A coordinator that cannot be trusted" in docs/operator-guide.md.
    """

    async def work(client: Client) -> bool:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.RemoveCoordinatorRequest(request=api_pb2.Request(id=request_id), name=name)
        return bool((await client.call(lambda api: api.control_plane.RemoveCoordinator, request)).changed)

    changed = converse(work, patience=60)
    emit(
        output,
        lambda: {"name": name, "changed": changed},
        lambda: [name],
        lambda _: print(f"{name} was removed; on its machine: systemctl disable --now gestalt-coordinator"),
    )
