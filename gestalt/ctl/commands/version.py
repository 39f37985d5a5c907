"""version: of this program and of the coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt import __version__
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.errors import GestaltError

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2


@click.command(epilog=examples("gestaltctl version", "gestaltctl version --client -o name"))
@click.option("--client", "only_client", is_flag=True, help="Do not ask the coordinator.")
@output_option
@connected
def version(only_client: bool, output: str) -> None:
    """Show the versions of gestaltctl and of the coordinator.

    A coordinator that does not answer is told, and is no error here.
    """
    answer: dict[str, Any] = {"client": __version__, "coordinator": None}
    problem = "" if only_client else _ask(answer)

    def people(_: bool) -> None:
        print(f"gestaltctl   {__version__}")
        if not only_client:
            print(f"coordinator  {answer['coordinator'] or problem}")

    emit(output, lambda: answer, lambda: [__version__], people)


def _ask(answer: dict[str, Any]) -> str:
    """Fill in the coordinator's version, or return why it is not known."""
    from gestalt.ctl.session import converse

    try:
        answer["coordinator"] = converse(_status).version
    except GestaltError as error:
        return f"unknown: {error.message}"
    return ""


async def _status(client: Client) -> api_pb2.StatusReply:
    from gestalt.proto.v1 import api_pb2

    return await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest(), limit=5)
