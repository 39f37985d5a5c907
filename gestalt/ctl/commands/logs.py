"""logs: what instances wrote."""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, BinaryIO

import click

from gestalt.ctl.completing import subject_argument
from gestalt.ctl.options import Duration, connected, examples
from gestalt.ctl.report import notice
from gestalt.ctl.resolve import Subject, find
from gestalt.ctl.session import converse
from gestalt.ctl.style import paint

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue")


@click.command(
    epilog=examples("gestaltctl logs web", "gestaltctl logs web -f --tail 10", "gestaltctl logs web-3fa9c1-7 --since 15m --timestamps")
)
@subject_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--tail", default=100, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Lines of each instance; 0 = all.")
@click.option("--since", type=Duration(), default=0.0, metavar="TIME", help="Only what is younger: 30s, 15m, 2h.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time before each line.")
@click.option("--run", default="", metavar="ID", help="Of a job: only what belongs to this run.")
@connected
def logs(*, subject: str, follow: bool, tail: int, since: float, timestamps: bool, run: str) -> None:
    """Show what an app or an instance wrote.

    What went to standard error goes to standard error here. The lines of several instances carry the instance's name.
    Notices of ours, such as the end of an instance, go to standard error. Following ends when the attempts that ran at its
    beginning have ended; what replaces them is followed by a new call.
    """

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        found = await find(client, subject)
        request = api_pb2.LogsRequest(
            app=found.app if not found.instance else "",
            instance=found.instance,
            follow=follow,
            tail=tail,
            since=since,
            timestamps=timestamps,
            run=run,
        )
        named = await _several(client, found, follow=follow)
        async for chunk in client.stream(lambda api: api.apps.Logs, request):
            _print(chunk, named=named)
        if follow:
            notice("-- nothing more comes: what was followed has ended, or its coordinator or node is away; see gestaltctl ps")

    converse(work)


async def _several(client: Client, subject: Subject, *, follow: bool) -> bool:
    """Whether lines of more than one instance may come."""
    from gestalt.proto.v1 import api_pb2

    if subject.instance:
        return False
    reply = await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=subject.app))
    return follow or len(reply.instances) > 1


def _print(chunk: api_pb2.LogChunk, *, named: bool) -> None:
    stream = sys.stderr if chunk.stderr else sys.stdout
    if chunk.data:
        prefix = f"{paint(chunk.instance, colour_of(chunk.instance), stream)}  " if named else ""
        write_lines(stream.buffer, chunk.data, prefix.encode())
    if chunk.notice:
        notice(f"-- {chunk.instance}: {chunk.notice}" if chunk.instance else f"-- {chunk.notice}")


def write_lines(stream: BinaryIO, data: bytes, prefix: bytes) -> None:
    """Write whole lines, each after `prefix`, and nothing else: bytes stay what they are."""
    whole = data if data.endswith(b"\n") else data + b"\n"
    stream.write(b"".join(prefix + line for line in whole.splitlines(keepends=True)) if prefix else whole)
    stream.flush()


def colour_of(instance: str) -> str:
    """Return the colour of an instance, the same one each time."""
    return _COLOURS[zlib.crc32(instance.encode()) % len(_COLOURS)]
