"""Logs and exec: the coordinator asks an agent to open a stream, and joins it with the caller's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from gestalt.errors import GestaltError, Kind
from gestalt.proto.v1 import agent_pb2
from gestalt.rpc import error_from_wire

OPEN_LIMIT = 10.0
"""Seconds that an agent gets to open a stream it was asked for."""

BUFFER = 64
"""Messages that wait for a slow reader; after that the other end waits, too."""


@dataclass(slots=True)
class Channel:
    """One stream between a caller and an agent. `node`: the only one that may open it. None ends a direction."""

    node: str
    up: asyncio.Queue[agent_pb2.BulkUp | None] = field(default_factory=lambda: asyncio.Queue(BUFFER))
    down: asyncio.Queue[agent_pb2.BulkDown | None] = field(default_factory=lambda: asyncio.Queue(BUFFER))
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def end_up(self) -> None:
        """End what goes to the caller, after what it has not read yet; returns at once when it reads no more."""
        ending, closed = asyncio.create_task(self.up.put(None)), asyncio.create_task(self.closed.wait())
        try:
            await asyncio.wait((ending, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            closed.cancel()


class Switchboard:
    """Knows the streams that were asked for and not opened yet, and those that are open."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}

    async def request(self, node: str, send: Callable[[agent_pb2.CoordinatorMessage], None], wanted: agent_pb2.OpenBulk) -> Channel:
        """Have the agent open a stream and return it once it has; who is cancelled meanwhile leaves it closed.

        Raises:
            GestaltError: TIMED_OUT, when the agent does not open it in time.
        """
        channel, wanted.id = Channel(node), uuid.uuid4().hex
        self._channels[wanted.id] = channel
        send(agent_pb2.CoordinatorMessage(open=wanted))
        try:
            async with asyncio.timeout(OPEN_LIMIT):
                await channel.opened.wait()
        except asyncio.CancelledError:
            channel.closed.set()
            raise
        except TimeoutError:
            channel.closed.set()
            message = f"the agent did not open the stream within {OPEN_LIMIT:g} s"
            raise GestaltError(Kind.TIMED_OUT, message, hint="see how the node is: gestaltctl nodes") from None
        finally:
            self._channels.pop(wanted.id, None)
        return channel

    def take(self, identity: str, node: str) -> Channel:
        """Return the channel that an agent opens.

        Raises:
            GestaltError: nobody waits for it any more, or it was asked of another node.
        """
        channel = self._channels.get(identity)
        if channel is None or channel.node != node:
            raise GestaltError(Kind.NOT_FOUND, f"nobody waits for stream {identity}")
        del self._channels[identity]
        channel.opened.set()
        return channel


async def received(channel: Channel) -> AsyncGenerator[agent_pb2.BulkUp, None]:
    """Yield what the agent sends until it ends.

    Raises:
        GestaltError: what the agent told as an error.
    """
    try:
        while (message := await channel.up.get()) is not None:
            if message.HasField("error"):
                raise error_from_wire(message.error)
            yield message
    finally:
        channel.closed.set()
