"""Logs and exec for callers of the public API: finds the instances, joins their agents' streams with the caller's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.proto.v1 import agent_pb2, api_pb2

from .bulk import Channel, Switchboard, received
from .dispatch import Dispatcher
from .ledger import Ledger
from .records import App, Placed, instance_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Streams:
    """Opens the streams to agents that calls need."""

    ledger: Ledger
    dispatcher: Dispatcher
    switchboard: Switchboard

    async def logs(self, request: api_pb2.LogsRequest) -> AsyncIterator[api_pb2.LogChunk]:
        """Yield log lines of an instance, or of all instances of an app as they come.

        Raises:
            GestaltError: there is no such app or instance, or its node is not connected.
        """
        queue: asyncio.Queue[api_pb2.LogChunk | GestaltError | None] = asyncio.Queue(64)
        wanted = self._wanted(request.app, request.instance, request.run)
        readers = [asyncio.create_task(self._read(instance, node, request, queue)) for instance, node in wanted]
        try:
            for _ in readers:
                async for chunk in _until_none(queue):
                    yield chunk
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(
        self, instance: str, node: str, request: api_pb2.LogsRequest, queue: asyncio.Queue[api_pb2.LogChunk | GestaltError | None]
    ) -> None:
        one = api_pb2.LogsRequest()
        one.CopyFrom(request)
        one.app, one.instance = "", instance
        try:
            channel = await self._open(node, agent_pb2.OpenBulk(logs=one))
            async with aclosing(received(channel)) as messages:
                async for message in messages:
                    await queue.put(message.log)
        except GestaltError as error:
            await queue.put(error)
        await queue.put(None)

    async def exec(
        self, actor: str, inputs: AsyncIterator[api_pb2.ExecInput], accepted: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[api_pb2.ExecOutput]:
        """Run a command in an instance: the first input opens it, the last output is its exit code.

        `accepted` is awaited once the agent has taken it on, before anything of the caller's input is sent there.

        Raises:
            GestaltError: the first input is not an opening, there is no such instance, or the command cannot be started.
        """
        opening = await _opening(inputs)
        (instance, node), *_ = self._wanted("", opening.instance)
        opening.instance = instance
        path = self._app_of(instance).path
        said = {"app": path, "instance": instance, "actor": actor}
        log.info("%s runs %s in %s", actor, list(opening.command), instance, extra=said)
        self.ledger.tell("instance.exec", instance, f"{actor} ran {opening.command[0]}", path)
        channel = await self._open(node, agent_pb2.OpenBulk(exec=opening))
        try:
            await accepted()
        except BaseException:  # a caller that goes away cancels: its channel is closed all the same
            channel.closed.set()
            raise
        feeder = asyncio.create_task(_feed(channel, inputs))
        ended = False
        try:
            async with aclosing(received(channel)) as messages:
                async for message in messages:
                    ended = ended or message.output.HasField("exit_code")
                    yield message.output
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
        if not ended:
            raise GestaltError(Kind.UNAVAILABLE, "the stream of the node broke off", hint="the command may have ended or not; look again")

    async def _open(self, node: str, wanted: agent_pb2.OpenBulk) -> Channel:
        link = self.dispatcher.link(node)
        if link is None:
            raise GestaltError(Kind.UNAVAILABLE, "the instance's node is not connected", hint="see how it is: gestaltctl nodes")
        return await self.switchboard.request(node, link.send, wanted)

    def _wanted(self, path: str, instance: str, run: str = "") -> list[tuple[str, str]]:
        """Return (instance id, node) of one instance, or of all of an app, or of one run of it."""
        if instance:
            app = self._app_of(instance)
            placed = [item for item in self._placed(app) if instance_id(app, item.serial) == instance]
        else:
            app = self.ledger.state.app(path)
            placed = [item for item in self._placed(app) if run in ("", item.run)]
            if not placed and run:
                raise GestaltError(Kind.NOT_FOUND, f"nothing is kept of a run {run}", hint=f"see what there is: gestaltctl runs {path}")
            if not placed:
                raise GestaltError(Kind.NOT_FOUND, f"{path} has no instances", hint=f"see why: gestaltctl inspect {path}")
        return [(instance_id(app, item.serial), item.node) for item in placed]

    def _placed(self, app: App) -> list[Placed]:
        return list(self.ledger.state.placed(app.path).instances)

    def _app_of(self, instance: str) -> App:
        path = self.ledger.state.owners.get(instance)
        if path is None:
            raise GestaltError(Kind.NOT_FOUND, f"there is no instance {instance}", hint="`gestaltctl ps` lists what there is")
        return self.ledger.state.app(path)


async def _until_none(queue: asyncio.Queue[api_pb2.LogChunk | GestaltError | None]) -> AsyncIterator[api_pb2.LogChunk]:
    while (item := await queue.get()) is not None:
        if isinstance(item, GestaltError):
            raise item
        yield item


async def _opening(inputs: AsyncIterator[api_pb2.ExecInput]) -> api_pb2.ExecInput.Open:
    async for message in inputs:
        if message.HasField("open") and message.open.command:
            return message.open
        break
    detail = Detail("open", "the first message must name an instance and a command", "ExecInput with `open` set")
    raise GestaltError(Kind.INVALID, detail.problem, details=[detail])


async def _feed(channel: Channel, inputs: AsyncIterator[api_pb2.ExecInput]) -> None:
    async for message in inputs:
        await channel.down.put(agent_pb2.BulkDown(input=message))
    await channel.down.put(None)
