"""cluster finalize-upgrade: the end of an upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.session import converse

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2


@click.command("finalize-upgrade", epilog=examples("gestaltctl cluster finalize-upgrade"))
@click.option("--request-id", default="", metavar="UUID", help="Make a repeated call harmless: the same id acts once.")
@connected
@output_option
def finalize(request_id: str, output: str) -> None:
    """End an upgrade: from now on what is new may be written, and there is no way back to the version before.

    Refused while a coordinator or an agent has an older version, or a coordinator does not run.
    """

    async def work(client: Client) -> api_pb2.FinalizeReply:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.FinalizeRequest(request=api_pb2.Request(id=request_id))
        return await client.call(lambda api: api.control_plane.FinalizeUpgrade, request)

    reply = converse(work, patience=60)
    sentence = (
        f"the store has format {reply.format} now" if reply.changed else f"nothing to do: the store has format {reply.format} already"
    )
    emit(output, lambda: {"changed": reply.changed, "format": reply.format}, lambda: [str(reply.format)], lambda _: print(sentence))
