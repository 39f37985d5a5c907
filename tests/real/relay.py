"""A wire between a client and a server on loopback that can be cut: both ends stay open, and nothing comes through any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Relay:
    """`up` carries what goes to the server, `down` what comes back. Cleared, they swallow it, also of connections to come."""

    port: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    down: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        """Be a machine that has vanished."""
        self.up.clear()
        self.down.clear()

    async def carry(self, target: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, server_writer, self.up))
                group.create_task(_pump(server_reader, writer, self.down))
        except* OSError:
            pass
        finally:
            writer.close()
            server_writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, whole: asyncio.Event) -> None:
    while data := await source.read(65536):
        if whole.is_set():
            sink.write(data)
            await sink.drain()
    if whole.is_set():
        raise ConnectionResetError("one end has closed")


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[Relay]:
    """Have a relay to a server."""
    host, _, port = address.rpartition(":")
    wire, carried = Relay(), set[asyncio.Task[None]]()
    wire.up.set()
    wire.down.set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried.add(asyncio.create_task(wire.carry((host, int(port)), reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in carried:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*carried, return_exceptions=True)
